"""Where else a chunk is, when the one that was asked for is not what its hash says: in another pack, or in memory.

Owns nothing. Shares the store's lock, and does not hold it while something travels.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from blake3 import blake3

from selfware_checkpointd.catalog import Catalog, Pack
from selfware_checkpointd.chunklist import Newest
from selfware_checkpointd.errors import ColdAwayError
from selfware_checkpointd.hot import Hot
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.packs import Group, unpack_frame


class Copies:
    """Finds chunks by their hashes; each is verified."""

    def __init__(self, catalog: Catalog, reader: PackReader, hot: Hot, newest: Newest, lock: threading.RLock) -> None:
        self._catalog = catalog
        self._reader = reader
        self._hot = hot
        self._newest = newest
        self._lock = lock

    def saved_again(self, digest: bytes) -> bytes | None:
        """As a later save stored it again. With the lock held while it is read, for what is here may be written anew;
        what lies in the cold store never changes."""
        with self._lock:
            place = self._catalog.places.get(digest)
            pack = self._catalog.packs.get(place[0]) if place else None
            group = pack.group_of(place[1]) if place and pack else None
            if place is None or pack is None or group is None:
                return None
            if pack.is_here:
                return self._chunk(pack, group, place[1])
        return self._chunk(pack, group, place[1])

    def anywhere(self, digest: bytes) -> bytes | None:
        """In memory, or in any pack where it is not known to be damaged."""
        chunk = self._in_memory(digest)
        if chunk is not None:
            return chunk
        with self._lock:
            places = self._catalog.others(digest)
        for pack, group, at in places:
            with suppress(OSError, ColdAwayError):
                chunk = unpack_frame(self._reader.frame(pack, group), group)[at]
                if chunk is not None:
                    return chunk
        return None

    def _chunk(self, pack: Pack, group: Group, number: int) -> bytes | None:
        try:
            return unpack_frame(self._reader.frame(pack, group), group)[number - group.first]
        except OSError:
            return None

    def _in_memory(self, digest: bytes) -> bytes | None:
        with self._lock:
            for number in self._hot.numbers():
                chunks, state = self._newest.get(number), self._hot.state(number)
                if chunks is not None and state is not None and digest in chunks.cut.digests:
                    at = chunks.cut.digests.index(digest)
                    chunk = bytes(state[chunks.cut.starts[at] : chunks.cut.starts[at + 1]])
                    if blake3(chunk).digest() == digest:
                        return chunk
        return None
