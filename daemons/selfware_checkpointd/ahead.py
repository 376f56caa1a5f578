"""Compresses chunks before their save is known in full: while the rest of the state is still being compared.

A group is known by the hashes of its chunks. If the save then wants other groups, or some of these chunks lie
somewhere already, what was compressed for nothing is thrown away: this can only cost time, never change what is saved.

Owns no thread and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from selfware_checkpointd.packs import GROUP_BYTES

MOST_BYTES = 8 * 1024 * 1024  # are held in memory twice until the save is over

Chunk = tuple[bytes, memoryview]
"""Hash, data."""
Compress = Callable[[Sequence[bytes | memoryview]], bytes]


class Ahead:
    """Groups of one save that are being compressed already."""

    def __init__(self, threads: Executor, compress: Compress) -> None:
        self._threads = threads
        self._compress = compress
        self._frames: dict[tuple[bytes, ...], Future[bytes]] = {}
        self._begins: set[bytes] = set()
        self.chunks: list[Chunk] = []

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Neighbouring new chunks, whose memory stays as it is until the save is over."""
        self.chunks += chunks
        group: list[Chunk] = []
        size = 0
        for chunk in chunks:
            if group and size + len(chunk[1]) > GROUP_BYTES:
                self._begin(group)
                group, size = [], 0
            group.append(chunk)
            size += len(chunk[1])
        if group:
            self._begin(group)

    def begins_with(self, digest: bytes) -> bool:
        """Does one of the groups begin with this chunk?"""
        return digest in self._begins

    def frame(self, hashes: tuple[bytes, ...]) -> Future[bytes] | None:
        """The group of exactly these chunks, once."""
        return self._frames.pop(hashes, None)

    def drop(self) -> None:
        """Nobody wants the rest."""
        for future in self._frames.values():
            future.cancel()
        self._frames = {}

    def _begin(self, group: list[Chunk]) -> None:
        self._begins.add(group[0][0])
        data = [data for _, data in group]
        self._frames[tuple(digest for digest, _ in group)] = self._threads.submit(self._compress, data)
