"""Events and states for the checkpointd tests."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from selfware_checkpointd.manifest import Level
from selfware_checkpointd.retention import newest_only, retain
from selfware_checkpointd.segment import Record
from selfware_checkpointd.store import Store


def event(sequence: int, payload: bytes = b"", epoch: int = 1, kind: str = "StepDone") -> Record:
    return Record(
        epoch, sequence, 1_700_000_000_000_000_000 + sequence, kind, payload or b"event %d" % sequence, "ab" * 16
    )


def events(first: int, last: int) -> list[Record]:
    return [event(sequence) for sequence in range(first, last + 1)]


def state(seed: int, size: int = 400_000) -> bytes:
    """Bytes that do not compress, so that a flipped one always hits something that matters."""
    return random.Random(seed).randbytes(size)


def keep_newest(store: Store, keep: dict[Level, int]) -> str:
    """Let all others go."""
    return retain(store, newest_only(keep), 2_000_000_000_000_000_000)


def flip(path: Path, offset: int) -> None:
    """Invert one byte of a file; a negative offset counts from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def fail_reads(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int, int], bool]) -> None:
    """The disk has an error wherever ``fails(inode, size, offset)`` says so."""
    pread, preadv = os.pread, os.preadv

    def check(file: int, size: int, offset: int) -> None:
        if fails(os.fstat(file).st_ino, size, offset):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read(file: int, size: int, offset: int) -> bytes:
        check(file, size, offset)
        return pread(file, size, offset)

    def read_into(file: int, rooms: Sequence[memoryview], offset: int) -> int:
        check(file, sum(map(len, rooms)), offset)
        return preadv(file, rooms, offset)

    monkeypatch.setattr(os, "pread", read)
    monkeypatch.setattr(os, "preadv", read_into)
