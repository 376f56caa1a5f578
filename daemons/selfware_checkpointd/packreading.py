"""Reads the frames of packs wherever they lie: here, or in the cold store, of which some bytes are kept in memory.

Tells what is away (ColdAwayError) from what is not there (FileNotFoundError); believes nothing: the chunks of a frame
are checked by those who asked for it. Thread-safe. Owns the kept frames and the way to the store.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.coldstore import ColdStore, RenamedStore
from selfware_checkpointd.coldstub import Stub
from selfware_checkpointd.errors import ColdAwayError
from selfware_checkpointd.packs import Group

KEPT_BYTES = 32 * 1024 * 1024  # of frames from the cold store: what is restored is often restored again


class PackReader:
    """One for all readers of a store."""

    def __init__(self, cold: ColdStore | None = None, kept_bytes: int = KEPT_BYTES) -> None:
        self._cold = cold
        self._most_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def frame(
        self, pack: Pack, group: Group, at_rest: bool = False, into: memoryview | None = None
    ) -> bytes | memoryview:
        """The group's bytes as they are stored; OSError if its file cannot be read. ``at_rest``: not from memory.
        ``into``: memory that is large enough, and may be used for it."""
        stub = pack.stub
        if not pack.is_here and stub is not None:
            return self.cold_frame(stub, group, at_rest)
        file = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if into is None:
                return os.pread(file, group.stored_bytes, group.offset)
            return into[: os.preadv(file, [into[: group.stored_bytes]], group.offset)]
        finally:
            os.close(file)

    def cold_frame(self, stub: Stub, group: Group, at_rest: bool = False) -> bytes:
        """The same from the copy in the cold store."""
        name = (stub.key, group.offset)
        with self._lock:
            if name in self._kept and not at_rest:
                self._kept.move_to_end(name)
                return self._kept[name]
        frame = b"".join(
            self.store_of(stub).get_range(stub.name_of(part), at, length)
            for part, at, length in stub.ranges(group.offset, group.stored_bytes)
        )
        self._keep(name, frame)
        return frame

    def forget(self, stub: Stub) -> None:
        """Keep nothing of this pack: it is to be read as the store has it now."""
        with self._lock:
            for name in [name for name in self._kept if name[0] == stub.key]:
                self._kept_bytes -= len(self._kept.pop(name))

    def store_of(self, stub: Stub) -> ColdStore:
        """The store that the stub speaks of; ColdAwayError if none is configured now."""
        if self._cold is None:
            raise ColdAwayError(place=stub.place, reason="no cold store is configured now")
        return self._cold if self._cold.place == stub.place else RenamedStore(self._cold, stub.place)

    def _keep(self, name: tuple[str, int], frame: bytes) -> None:
        with self._lock:
            if name in self._kept or len(frame) > self._most_bytes:
                return
            self._kept[name] = frame
            self._kept_bytes += len(frame)
            while self._kept_bytes > self._most_bytes:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
