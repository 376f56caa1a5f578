"""One journal segment, byte by byte: how events lie in a file, and how to read what damage has left of them.

All numbers are little-endian. A segment is one header and then records without padding.

    header, 24 bytes
      0   8  magic            53 46 57 4a 52 4e 4c 0a ("SFWJRNL\\n")
      8   2  version          1
     10   2  reserved         0
     12   8  first sequence   also the file's name, 20 digits
     20   4  CRC-32           of bytes 0..19

    record, 44 bytes + kind + trace id + payload
      0   4  mark             a5 53 46 52 (resynchronises a reader after damage)
      4   4  CRC-32           of everything after it, to the end of the record
      8   4  length           of the whole record
     12   4  batch offset     where in this file the batch began that this record was written with
     16   8  epoch            which writer wrote it
     24   8  sequence         1, 2, 3 ...
     32   8  time             nanoseconds since 1970, the writer's clock
     40   2  kind length
     42   2  trace id length
     44      kind (UTF-8), trace id (UTF-8), payload

The batch offset separates an unfinished write from damage. A batch is written only after the one before it is
durable, so a bad record is damage exactly when a later record belongs to a batch that began after it; within the
last batch a power cut may persist pages in any order, and none of it was acknowledged.

Owns no file: works on bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from selfware_checkpointd.errors import FormatVersionError, InvalidRecordError

MAGIC = b"SFWJRNL\n"
VERSION = 1
MARK = b"\xa5SFR"
HEADER = struct.Struct("<8sHHQ")
HEADER_BYTES = HEADER.size + 4
RECORD_HEAD = struct.Struct("<IIQQQHH")
WHOLE_HEAD = struct.Struct("<4sIIIQQQHH")  # mark and CRC-32, then what RECORD_HEAD packs
RECORD_HEAD_BYTES = WHOLE_HEAD.size
MAX_RECORD_BYTES = 64 * 1024 * 1024
_CHECKSUM = struct.Struct("<I")


class Record(NamedTuple):
    """One event of a session; the payload is the writer's business.

    A named tuple and not a frozen dataclass, because it is made in a quarter of the time, once per event.
    """

    epoch: int
    sequence: int
    time_unix_nanos: int
    kind: str
    payload: bytes
    trace_id: str = ""

    def same_content(self, other: Record) -> bool:
        """Is the other one a repetition of this event (by any writer, at any time)?"""
        return self.kind == other.kind and self.payload == other.payload


class Placed(NamedTuple):
    """A record, where it begins and ends, and where its batch began."""

    offset: int
    end: int
    batch_offset: int
    record: Record


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment holds: its readable records and, if any byte is wrong, the first place where."""

    records: list[Placed]
    bad_offset: int | None
    after_damage: int  # index in records of the first one beyond bad_offset

    @property
    def is_torn(self) -> bool:
        """True if the bad place can be an unfinished, never acknowledged write."""
        if self.bad_offset is None:
            return False
        return all(placed.batch_offset <= self.bad_offset for placed in self.records[self.after_damage :])


def encode_header(first_sequence: int) -> bytes:
    """The 24 bytes a segment begins with."""
    head = HEADER.pack(MAGIC, VERSION, 0, first_sequence)
    return head + _CHECKSUM.pack(crc32(head))


def header_is_good(data: bytes, first_sequence: int) -> bool:
    """Does this data begin with the header that its file name promises?"""
    return data[:HEADER_BYTES] == encode_header(first_sequence)


def encode_record(record: Record, batch_offset: int) -> bytes:
    """The bytes of one record, written as part of the batch that begins at batch_offset."""
    epoch, sequence, time_unix_nanos, kind_text, payload, trace_text = record
    try:
        kind, trace_id = kind_text.encode(), trace_text.encode()
        length = RECORD_HEAD_BYTES + len(kind) + len(trace_id) + len(payload)
        head = RECORD_HEAD.pack(length, batch_offset, epoch, sequence, time_unix_nanos, len(kind), len(trace_id))
    except (UnicodeEncodeError, struct.error) as error:
        raise InvalidRecordError(sequence=sequence, problem=str(error)) from error
    if length > MAX_RECORD_BYTES:
        problem = f"it has {length} bytes and the limit is {MAX_RECORD_BYTES}"
        raise InvalidRecordError(sequence=sequence, problem=problem)
    body = head + kind + trace_id + payload
    return MARK + _CHECKSUM.pack(crc32(body)) + body


def decode_record(data: bytes, offset: int) -> Placed | None:
    """The record at this offset, or None if the bytes there are not one."""
    kind_at = offset + RECORD_HEAD_BYTES
    if kind_at > len(data):
        return None
    mark, checksum, length, batch_offset, epoch, sequence, time, kind_bytes, trace_bytes = WHOLE_HEAD.unpack_from(
        data, offset
    )
    end, trace_at = offset + length, kind_at + kind_bytes
    payload_at = trace_at + trace_bytes
    if mark != MARK or payload_at > end or end > len(data) or crc32(data[offset + 8 : end]) != checksum:
        return None
    kind = data[kind_at:trace_at].decode()
    trace_id = data[trace_at:payload_at].decode() if trace_bytes else ""
    return Placed(offset, end, batch_offset, Record(epoch, sequence, time, kind, data[payload_at:end], trace_id))


def first_time(data: bytes) -> int:
    """When the first event of a segment was made, by its head alone (nanoseconds since 1970); 0 if there is none."""
    if len(data) < HEADER_BYTES + RECORD_HEAD_BYTES or data[HEADER_BYTES : HEADER_BYTES + len(MARK)] != MARK:
        return 0
    return int(WHOLE_HEAD.unpack_from(data, HEADER_BYTES)[6])


def refuse_other_version(data: bytes, path: Path) -> None:
    """A whole header of another version is not damage: say so instead of guessing."""
    if len(data) < HEADER_BYTES or data[:8] != MAGIC:
        return
    _, version, _, _ = HEADER.unpack_from(data)
    if version != VERSION and _CHECKSUM.pack(crc32(data[: HEADER.size])) == data[HEADER.size : HEADER_BYTES]:
        raise FormatVersionError(path=path, version=version, known=VERSION)


def scan(data: bytes, first_sequence: int, start: int = HEADER_BYTES, start_sequence: int | None = None) -> Scan:
    """Read every record that can be read (from start on), with the first bad place if there is one."""
    records: list[Placed] = []
    bad_offset: int | None = None if header_is_good(data, first_sequence) else 0
    after_damage = 0
    offset, expected = start, first_sequence if start_sequence is None else start_sequence
    while offset < len(data):
        placed = decode_record(data, offset)
        if placed is not None and placed.record.sequence == expected:
            records.append(placed)
            offset, expected = placed.end, expected + 1
            continue
        if bad_offset is None:
            bad_offset, after_damage = offset, len(records)
        found = next(_later_records(data, offset + 1, expected), None)
        if found is None:
            break
        offset, expected = found.offset, found.record.sequence
    return Scan(records, bad_offset, after_damage)


def _later_records(data: bytes, start: int, expected: int) -> Iterator[Placed]:
    """Records at or after start that continue the sequence, skipping marks that only look like one."""
    offset = data.find(MARK, start)
    while offset >= 0:
        placed = decode_record(data, offset)
        if placed is not None and placed.record.sequence >= expected:
            yield placed
        offset = data.find(MARK, offset + 1)
