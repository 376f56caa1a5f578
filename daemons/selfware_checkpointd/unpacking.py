"""Reads a group from its pack, or from the pack's copy in the cold store, and says which of its chunks are right.

Thread-safe. Owns nothing: packs are read through the reader.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress

from blake3 import blake3

from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.errors import StorageError
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.packs import Group, raw_of
from selfware_checkpointd.plans import Part

Unpacked = tuple[memoryview, list[int], set[int]]
"""A group's bytes, where its chunks begin, and which of the wanted ones are not what their hash says."""


class Desk:
    """Memory to unpack one group after another on."""

    def __init__(self, groups: Iterable[Group]) -> None:
        """For the largest of them."""
        stored, raw = 0, 0
        for group in groups:
            stored, raw = max(stored, group.stored_bytes), max(raw, sum(group.lengths))
        self.stored = memoryview(bytearray(stored))
        self.raw = memoryview(bytearray(raw))


class Unpacker:
    """One for all readers of a store."""

    def __init__(self, reader: PackReader) -> None:
        self._reader = reader
        # Each hash lets go of the interpreter for some microseconds: two threads that do it at once wait for each other
        # most of the time. One hashes while the other decompresses.
        self._hashing = threading.Lock()

    def unpacked(
        self, pack: Pack, group: Group, wanted: Iterable[Part], at_rest: bool = False, desk: Desk | None = None
    ) -> Unpacked:
        """From here; from its copy in the cold store if what is here is not right. On the desk, it is good until the
        next one. StorageError if it cannot be read now, ColdAwayError if its store is away."""
        stub = pack.stub  # upkeep may drop it meanwhile
        wanted = list(wanted)
        try:
            stored = self._reader.frame(pack, group, at_rest, None if desk is None else desk.stored)
            unpacked = self._checked(stored, group, wanted, desk)
        except FileNotFoundError:
            unpacked = self._checked(b"", group, wanted, desk)
        except OSError as error:  # that may pass: it says nothing about the chunks
            if pack.is_here and stub is not None:
                with suppress(FileNotFoundError):
                    return self._checked(self._reader.cold_frame(stub, group), group, wanted, desk)
            raise StorageError(what="read a checkpoint", path=pack.path, reason=error.strerror or str(error)) from error
        if unpacked[2] and stub is not None:
            self._reader.forget(stub)
        if unpacked[2] and stub is not None and pack.is_here:
            with suppress(FileNotFoundError):
                return self._checked(self._reader.cold_frame(stub, group), group, wanted, desk)
        return unpacked

    def _checked(self, stored: bytes | memoryview, group: Group, wanted: list[Part], desk: Desk | None) -> Unpacked:
        starts = [0]
        for length in group.lengths:
            starts.append(starts[-1] + length)
        chunks = {number for part in wanted for number in range(part.at, part.stop)}
        raw = raw_of(group, stored, memoryview(bytearray(starts[-1])) if desk is None else desk.raw)
        if raw is None:
            return memoryview(b""), starts, set(range(len(group.hashes)))
        with self._hashing:
            bad = {n for n in chunks if blake3(raw[starts[n] : starts[n + 1]]).digest() != group.hashes[n]}
        return raw, starts, bad


def piece_of(part: Part, group: Unpacked) -> Unpacked:
    """The same of a part of it."""
    raw, starts, bad = group
    begin, end = starts[part.at], starts[part.stop]
    ends = [start - begin for start in starts[part.at : part.stop + 1]]
    return raw[begin:end], ends, {number - part.at for number in bad if part.at <= number < part.stop}
