"""Where the scrub stands, so that a pass goes on after a restart: the file ``scrub`` beside the packs.

All numbers are little-endian.

      0   8  magic            53 46 57 53 43 52 42 0a ("SFWSCRB\\n")
      8   2  version          1
     10   6  reserved         0
     16   8  pass began       nanoseconds since 1970; 0: none yet
     24   8  next pack        the first number that was not verified in this pass; all ones: every pack was
     32   8  segments         sealed journal segments that were verified in this pass
     40   4  CRC-32           of bytes 0..39

A damaged or lost note begins a new pass. Owns no file: works on bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

MAGIC = b"SFWSCRB\n"
VERSION = 1
ALL_PACKS = (1 << 64) - 1
_NOTE = struct.Struct("<8sH6xQQQ")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Note:
    """A pass: when it began and how far it came."""

    began_unix_nanos: int = 0
    next_pack: int = ALL_PACKS
    segments: int = 0


def encode_note(note: Note) -> bytes:
    """The bytes of its file."""
    data = _NOTE.pack(MAGIC, VERSION, note.began_unix_nanos, note.next_pack, note.segments)
    return data + _CHECKSUM.pack(crc32(data))


def decode_note(data: bytes) -> Note:
    """What the bytes say; of none, or damaged ones, that no pass ever began."""
    if len(data) != _NOTE.size + 4 or data[:8] != MAGIC or _CHECKSUM.pack(crc32(data[:-4])) != data[-4:]:
        return Note()
    _, version, began, next_pack, segments = _NOTE.unpack_from(data)
    return Note(began, next_pack, segments) if version == VERSION else Note()
