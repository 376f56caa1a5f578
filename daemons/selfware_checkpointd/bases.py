"""What a state is compared with, so that only what changed is stored: a checkpoint's chunks, if they are all to be had.

One whose chunks are gone, or known to be damaged, is no base: what it had has to come again. Not thread-safe: the store
holds a lock.
"""

from __future__ import annotations

from collections.abc import Callable

from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.chunklist import ChunkList, Newest
from selfware_checkpointd.errors import CheckpointCorruptError, CheckpointNotFoundError, UnknownBaseError
from selfware_checkpointd.manifest import CheckpointInfo, Level


class Bases:
    """Remembers the chunks of the newest ones."""

    def __init__(self, catalog: Catalog, newest: Newest) -> None:
        self._catalog = catalog
        self._newest = newest

    def newest(self, session_id: str, level: Level) -> tuple[int, ChunkList]:
        """The number and chunks of the newest one of this level, or of any; 0 and nothing if there is none."""
        info = self._catalog.latest(session_id, level) or self._catalog.latest(session_id)
        chunks = self._chunks_of(info.number) if info else None
        return (info.number, chunks) if info and chunks else (0, ChunkList())

    def named(self, base_id: str, session_id: str, find: Callable[[str], CheckpointInfo]) -> ChunkList:
        """The chunks of the one that a client speaks of, "" for none. Raises UnknownBaseError."""
        if not base_id:
            return ChunkList()
        try:
            info = find(base_id)
        except (CheckpointNotFoundError, CheckpointCorruptError) as error:
            raise UnknownBaseError(checkpoint_id=base_id) from error
        chunks = self._chunks_of(info.number) if info.session_id == session_id else None
        if chunks is None:
            raise UnknownBaseError(checkpoint_id=base_id)
        return chunks

    def _chunks_of(self, number: int) -> ChunkList | None:
        """A checkpoint's chunks; None if some are gone, or known to be damaged: they have to come again."""
        chunks = self._newest.get(number)
        if chunks is None:
            try:
                chunks = self._catalog.chunks_of(number)
            except ValueError:
                return None
            self._newest.put(number, chunks)
        return None if self._catalog.lost and chunks.touches(self._catalog.lost) else chunks
