"""Lets old events go, once checkpoints hold what came of them, so that a journal does not grow for ever.

Whole segments only, from the front, and only what two intact checkpoints cover (one may turn out to be damaged later;
micro checkpoints do not count). Of those the ones that ended before ``retention_days`` go; and, while all journals
together take more than a quarter of the limit, the oldest ones of any session. So whatever checkpoint of the last days
one goes back to, the events after it are there, and a session without checkpoints keeps all of its events.

How far that went is durable before anything goes, in the file ``floor`` beside the segments, as two equal copies. So
what was let go on purpose is told from what is lost. Numbers are little-endian; each copy, 24 bytes:

      0   8  magic            53 46 57 46 4c 4f 52 0a ("SFWFLOR\\n")
      8   2  version          1
     10   2  reserved         0
     12   8  floor            the last event that was let go
     20   4  CRC-32           of bytes 0..19

What decides is pure. Owns that file; segments are the journal's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zlib import crc32

from selfware_checkpointd import sealing
from selfware_checkpointd.errors import StorageError
from selfware_checkpointd.files import write_durably
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.segment import first_time

MAGIC = b"SFWFLOR\n"
VERSION = 1
FLOOR = "floor"
SHARE = 4  # journals may take a quarter of the limit
UNKNOWN_TIME = 1 << 62
DAY_NANOS = 86_400_000_000_000
_COPY = struct.Struct("<8sHHQ")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Closed:
    """A segment after which another one began."""

    session_id: str
    first: int
    last: int
    size_bytes: int
    ended_unix_nanos: int  # when the next one began


class Segments:
    """When the segments of one journal began; each is read once."""

    def __init__(self, directory: Path, session_id: str, keys: JournalKeys) -> None:
        self._directory, self._session_id, self._keys = directory, session_id, keys
        self._begun: dict[int, int] = {}

    def closed(self, firsts: list[int]) -> list[Closed]:
        """Of those that begin with these events all but the last, oldest first."""
        self._begun = {first: begun for first, begun in self._begun.items() if first in firsts}
        return [
            Closed(self._session_id, first, then - 1, sealing.size_of(self._directory, first), self._begun_at(then))
            for first, then in pairwise(firsts)
        ]

    def _begun_at(self, first: int) -> int:
        """In a far future if that is not known."""
        if not self._begun.get(first):
            self._begun[first] = first_time(sealing.read_head(self._directory, first, self._keys))
        return self._begun[first] or UNKNOWN_TIME


def too_old(segments: Iterable[Closed], now_unix_nanos: int, retention_days: float) -> list[Closed]:
    """Those that their age lets go."""
    return [one for one in segments if now_unix_nanos - one.ended_unix_nanos > retention_days * DAY_NANOS]


def too_many(segments: Iterable[Closed], total_bytes: int, limit_bytes: int) -> list[Closed]:
    """Those that go because journals take so much in all; the oldest first."""
    over = total_bytes - limit_bytes // SHARE
    going = []
    for one in sorted(segments, key=lambda one: (one.ended_unix_nanos, one.session_id, one.first)):
        if over <= 0:
            break
        over -= one.size_bytes
        going.append(one)
    return going


def through(going: Iterable[Closed], covered: Mapping[str, int]) -> dict[str, int]:
    """Per session the last event to let go. covered: the last one that intact checkpoints hold."""
    floors: dict[str, int] = {}
    for one in going:
        if one.last <= covered.get(one.session_id, 0):
            floors[one.session_id] = max(one.last, floors.get(one.session_id, 0))
    return floors


def encode_floor(sequence: int) -> bytes:
    """Both copies."""
    copy = _COPY.pack(MAGIC, VERSION, 0, sequence)
    return (copy + _CHECKSUM.pack(crc32(copy))) * 2


def decode_floor(data: bytes) -> int:
    """What the first whole copy says; 0 if there is none."""
    size = _COPY.size + _CHECKSUM.size
    for copy in (data[:size], data[size : 2 * size]):
        if len(copy) == size and _CHECKSUM.pack(crc32(copy[:-4])) == copy[-4:]:
            magic, version, _, sequence = _COPY.unpack_from(copy)
            if magic == MAGIC and version == VERSION:
                return int(sequence)
    return 0


def read_floor(directory: Path) -> int:
    """Of the journal in this directory; raises StorageError."""
    path = directory / FLOOR
    try:
        return decode_floor(path.read_bytes())
    except FileNotFoundError:
        return 0
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(what="read how far the journal was let go", path=path, reason=reason) from error


def write_floor(directory: Path, sequence: int) -> None:
    """Durable on return."""
    write_durably(directory / FLOOR, [encode_floor(sequence)])
