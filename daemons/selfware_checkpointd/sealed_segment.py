"""A sealed journal segment that is encrypted, byte by byte: compressed first, since ciphertext does not become smaller.

All numbers are little-endian.

    header, 36 bytes
      0   8  magic            53 46 57 53 45 41 4c 0a ("SFWSEAL\\n")
      8   2  version          1
     10   2  reserved         0
     12   8  first sequence   also the file's name, 20 digits
     20   4  length           of the segment
     24   8  key id           see ``vault``; the box is called "sealed ", the session id, " " and the first sequence
     32   4  CRC-32           of bytes 0..31

    piece, as many as needed: 256 KiB of the segment, the last one less
      0   4  mark             a5 53 46 5a
      4   4  CRC-32           of bytes 8..19
      8   4  stored length    of what is sealed
     12   4  offset           in the segment
     16   4  length           in the segment
     20      sealed: zstd frame of the piece; bytes 8..19 belong around it

A segment of version 2 is sealed as one of version 1 with the same records, for its own bytes would not become smaller;
one with damage in it as it is. A piece that is damaged is read as zeros: records have their own checksums, and those
before and after it stay readable.

Owns no file: works on bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import zstandard

from selfware_checkpointd.frames import decompress
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.segment import encode_header, encode_record, scan
from selfware_checkpointd.vault import SEALED_MORE_BYTES, Box

MAGIC = b"SFWSEAL\n"
VERSION = 1
MARK = b"\xa5SFZ"
PIECE_BYTES = 256 * 1024
MOST_BYTES = 1 << 30  # a damaged head may claim any
HEADER = struct.Struct("<8sHHQI8s")
HEADER_BYTES = HEADER.size + 4
_PIECE = struct.Struct("<III")
PIECE_HEAD_BYTES = 8 + _PIECE.size
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What a sealed segment gives."""

    data: bytes
    is_whole: bool


def is_encrypted(data: bytes) -> bool:
    """Is it one of these, damaged perhaps, and not a zstd frame?"""
    return not data.startswith(zstandard.FRAME_HEADER) and (data.startswith(MAGIC) or MARK in data[: 2 * HEADER_BYTES])


def key_id_of(data: bytes, first_sequence: int) -> bytes | None:
    """The key that it names; None if its header is damaged, or it is not encrypted."""
    found = _header(data, first_sequence)
    return found[1] if found else None


def encode(data: bytes, first_sequence: int, box: Box, compressor: zstandard.ZstdCompressor) -> bytes:
    """A segment's bytes, sealed."""
    head = HEADER.pack(MAGIC, VERSION, 0, first_sequence, len(data), box.key_id)
    pieces = [head, _CHECKSUM.pack(crc32(head))]
    for at in range(0, len(data), PIECE_BYTES):
        piece = data[at : at + PIECE_BYTES]
        frame = compressor.compress(piece)
        place = _PIECE.pack(len(frame) + SEALED_MORE_BYTES, at, len(piece))
        pieces += (MARK, _CHECKSUM.pack(crc32(place)), place, box.seal(frame, place))
    return b"".join(pieces)


def decode(data: bytes, first_sequence: int, keys: JournalKeys) -> Unsealed:
    """The segment, with zeros where it is damaged; KeyMissingError if its key is not here."""
    header = _header(data, first_sequence)
    boxes = keys.of_sealed(header[1] if header else None, first_sequence)
    segment, whole_until = bytearray(header[0] if header else 0), 0
    at = data.find(MARK)
    while at >= 0:
        found = _piece(data, at, boxes)
        if found is None:
            at = data.find(MARK, at + 1)
            continue
        offset, piece, end = found
        if len(segment) < offset + len(piece):
            segment.extend(bytes(offset + len(piece) - len(segment)))
        segment[offset : offset + len(piece)] = piece
        if offset == whole_until:
            whole_until += len(piece)
        at = data.find(MARK, end)
    return Unsealed(bytes(segment), header is not None and whole_until == header[0])


def uncovered(data: bytes, first_sequence: int, keys: JournalKeys) -> bytes:
    """A segment as it is sealed: with its records as they are when nothing is encrypted, if all of it is right."""
    found = scan(data, first_sequence, boxes=keys.of_segment(data, first_sequence))
    if found.bad_offset is not None or data.startswith(encode_header(first_sequence)):
        return data
    pieces = [encode_header(first_sequence)]
    size = len(pieces[0])
    for placed in found.records:
        pieces.append(encode_record(placed.record, size))
        size += len(pieces[-1])
    return b"".join(pieces)


def _header(data: bytes, first_sequence: int) -> tuple[int, bytes] | None:
    """(length of the segment, key id)."""
    if len(data) < HEADER_BYTES or _CHECKSUM.pack(crc32(data[: HEADER.size])) != data[HEADER.size : HEADER_BYTES]:
        return None
    magic, version, _, first, length, key_id = HEADER.unpack_from(data)
    is_ours = magic == MAGIC and version == VERSION and first == first_sequence and length <= MOST_BYTES
    return (length, key_id) if is_ours else None


def _piece(data: bytes, at: int, boxes: Sequence[Box]) -> tuple[int, bytes, int] | None:
    """(offset in the segment, bytes, where the next one begins)."""
    start = at + PIECE_HEAD_BYTES
    place = data[at + 8 : start]
    if start > len(data) or _CHECKSUM.pack(crc32(place)) != data[at + 4 : at + 8]:
        return None
    stored, offset, length = _PIECE.unpack(place)
    if offset + length > MOST_BYTES:
        return None
    for box in boxes:
        frame = box.open(data[start : start + stored], place)
        piece = None if frame is None else decompress(frame, length)
        if piece is not None:
            return offset, piece, start + stored
    return None
