"""Remembers where in the last stream each file's bytes are, so that the next capture reads only what changed.

A file is taken as unchanged if path, inode, size, time of modification and time of change are the same. A change
within the tick of the file system's clock would show in none of them, so a file that was touched less than RACY_NANOS
before it was read is not remembered: the next capture reads it again (git calls such a file racily clean).

What this cannot see: stores through a shared memory map into a page that was dirty already when it was read, until
the kernel writes the page back. Every tool that trusts times has that hole; a capture without an index does not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from blake3 import blake3

RACY_NANOS = 2_000_000_000  # the coarsest clock of a file system that we may meet ticks every two seconds


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it was: where its bytes are in the stream, and what it looked like then."""

    stamp: tuple[int, int, int, int]
    offset_bytes: int
    content_hash: bytes


@dataclass(slots=True)
class TreeIndex:
    """The files of one stream; stream_hash says which. Paths are kept as hashes: deep ones would be long."""

    stream_hash: bytes = b""
    files: dict[bytes, Known] = field(default_factory=dict)

    def find(self, path: bytes, status: os.stat_result) -> Known | None:
        """Where this file's bytes are, if it is the one we know."""
        known = self.files.get(_key(path))
        return known if known is not None and known.stamp == stamp(status) else None

    def add(self, path: bytes, known: Known, read_unix_nanos: int) -> None:
        """Remember a file, unless it was touched so shortly before it was read that a change could hide."""
        _inode, _size, modified, changed = known.stamp
        if max(modified, changed) < read_unix_nanos - RACY_NANOS:
            self.files[_key(path)] = known


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """What differs after any change that the kernel noticed."""
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _key(path: bytes) -> bytes:
    return blake3(path).digest(length=16)
