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

A segment that is encrypted has version 2. It differs in this:

    header, 32 bytes
      8   2  version          2
     20   8  key id           see ``vault``; the box is called "journal ", the session id, " " and the first sequence
     28   4  CRC-32           of bytes 0..27

    record, 72 bytes + kind + trace id + payload
      0   4  mark             a5 53 46 53
     ..      as above, up to
     32   8  time
     40      sealed: 2 bytes kind length, 2 bytes trace id length, kind, trace id, payload; bytes 8..39 belong around it

A record that is whole by its checksum and cannot be opened was sealed with a key that is not here, or altered by
somebody: it is never taken for an unfinished write.

Owns no file: works on bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from selfware_checkpointd.errors import FormatVersionError, InvalidRecordError
from selfware_checkpointd.vault import SEALED_MORE_BYTES, Box

MAGIC = b"SFWJRNL\n"
VERSION = 1
SEALED_VERSION = 2
MARK = b"\xa5SFR"
SEALED_MARK = b"\xa5SFS"
HEADER = struct.Struct("<8sHHQ")
HEADER_BYTES = HEADER.size + 4
SEALED_HEADER = struct.Struct("<8sHHQ8s")
SEALED_HEADER_BYTES = SEALED_HEADER.size + 4
RECORD_HEAD = struct.Struct("<IIQQQHH")
WHOLE_HEAD = struct.Struct("<4sIIIQQQHH")  # mark and CRC-32, then what RECORD_HEAD packs
RECORD_HEAD_BYTES = WHOLE_HEAD.size
_SEALED_RECORD_HEAD = struct.Struct("<IIQQQ")
_LENGTHS = struct.Struct("<HH")  # these two are what stands before the rest
_SEALED_AT = 8 + _SEALED_RECORD_HEAD.size
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
    is_locked: bool = False  # True: a record in it is whole, and none of our keys opens it

    @property
    def is_torn(self) -> bool:
        """True if the bad place can be an unfinished, never acknowledged write."""
        if self.bad_offset is None or self.is_locked:
            return False
        return all(placed.batch_offset <= self.bad_offset for placed in self.records[self.after_damage :])


def encode_header(first_sequence: int, key_id: bytes | None = None) -> bytes:
    """The bytes a segment begins with; a key id makes it an encrypted one."""
    if key_id is None:
        head = HEADER.pack(MAGIC, VERSION, 0, first_sequence)
    else:
        head = SEALED_HEADER.pack(MAGIC, SEALED_VERSION, 0, first_sequence, key_id)
    return head + _CHECKSUM.pack(crc32(head))


def header_is_good(data: bytes, first_sequence: int) -> bool:
    """Does this data begin with the header that its file name promises?"""
    return data.startswith(encode_header(first_sequence)) or key_id_of(data, first_sequence) is not None


def key_id_of(data: bytes, first_sequence: int) -> bytes | None:
    """The key that an encrypted segment names; None if it is none, or its header is damaged."""
    key_id = data[SEALED_HEADER.size - 8 : SEALED_HEADER.size]
    is_good = len(data) >= SEALED_HEADER_BYTES and data.startswith(encode_header(first_sequence, key_id))
    return key_id if is_good else None


def encode_record(record: Record, batch_offset: int, box: Box | None = None) -> bytes:
    """The bytes of one record, written as part of the batch that begins at batch_offset."""
    epoch, sequence, time_unix_nanos, kind_text, payload, trace_text = record
    try:
        kind, trace_id = kind_text.encode(), trace_text.encode()
        length = RECORD_HEAD_BYTES + len(kind) + len(trace_id) + len(payload)
        if box is None:
            head = RECORD_HEAD.pack(length, batch_offset, epoch, sequence, time_unix_nanos, len(kind), len(trace_id))
        else:
            length += SEALED_MORE_BYTES
            head = _SEALED_RECORD_HEAD.pack(length, batch_offset, epoch, sequence, time_unix_nanos)
            lengths = _LENGTHS.pack(len(kind), len(trace_id))
    except (UnicodeEncodeError, struct.error) as error:
        raise InvalidRecordError(sequence=sequence, problem=str(error)) from error
    if length > MAX_RECORD_BYTES:
        problem = f"it has {length} bytes and the limit is {MAX_RECORD_BYTES}"
        raise InvalidRecordError(sequence=sequence, problem=problem)
    if box is None:
        body = head + kind + trace_id + payload
        return MARK + _CHECKSUM.pack(crc32(body)) + body
    body = head + box.seal(b"".join((lengths, kind, trace_id, payload)), head)
    return SEALED_MARK + _CHECKSUM.pack(crc32(body)) + body


def decode_record(data: bytes, offset: int, boxes: Sequence[Box] = ()) -> Placed | None:
    """The record at this offset, or None if the bytes there are not one, or none that these boxes open."""
    kind_at = offset + RECORD_HEAD_BYTES
    if kind_at > len(data):
        return None
    mark, checksum, length, batch_offset, epoch, sequence, time, kind_bytes, trace_bytes = WHOLE_HEAD.unpack_from(
        data, offset
    )
    if mark == SEALED_MARK:
        return _open_record(data, offset, boxes)
    end, trace_at = offset + length, kind_at + kind_bytes
    payload_at = trace_at + trace_bytes
    if mark != MARK or payload_at > end or end > len(data) or crc32(data[offset + 8 : end]) != checksum:
        return None
    kind = data[kind_at:trace_at].decode()
    trace_id = data[trace_at:payload_at].decode() if trace_bytes else ""
    return Placed(offset, end, batch_offset, Record(epoch, sequence, time, kind, data[payload_at:end], trace_id))


def opened_by(data: bytes, offset: int, boxes: Sequence[Box]) -> Box | None:
    """The one of these boxes that a record was sealed with."""
    return next((box for box in boxes if _open_record(data, offset, [box])), None)


def first_time(data: bytes) -> int:
    """When the first event of a segment was made, by its head alone (nanoseconds since 1970); 0 if there is none."""
    for at, mark in ((HEADER_BYTES, MARK), (SEALED_HEADER_BYTES, SEALED_MARK)):
        if len(data) >= at + RECORD_HEAD_BYTES and data[at : at + len(mark)] == mark:
            return int(WHOLE_HEAD.unpack_from(data, at)[6])
    return 0


def refuse_other_version(data: bytes, path: Path) -> None:
    """A whole header of another version is not damage: say so instead of guessing."""
    if len(data) < HEADER_BYTES or data[:8] != MAGIC:
        return
    _, version, _, _ = HEADER.unpack_from(data)
    is_whole = any(
        _CHECKSUM.pack(crc32(data[:size])) == data[size : size + 4] for size in (HEADER.size, SEALED_HEADER.size)
    )
    if is_whole and version not in (VERSION, SEALED_VERSION):
        raise FormatVersionError(path=path, version=version, known=SEALED_VERSION)


def scan(
    data: bytes,
    first_sequence: int,
    start: int = 0,
    start_sequence: int | None = None,
    boxes: Sequence[Box] = (),
) -> Scan:
    """Read every record that can be read (from start on, if that is given), with the first bad place if there is one.
    boxes: what opens its records if they are sealed."""
    records: list[Placed] = []
    bad_offset: int | None = None if header_is_good(data, first_sequence) else 0
    after_damage = 0
    header_bytes = HEADER_BYTES if key_id_of(data, first_sequence) is None else SEALED_HEADER_BYTES
    offset, expected = start or header_bytes, first_sequence if start_sequence is None else start_sequence
    while offset < len(data):
        placed = decode_record(data, offset, boxes)
        if placed is not None and placed.record.sequence == expected:
            records.append(placed)
            offset, expected = placed.end, expected + 1
            continue
        if bad_offset is None:
            bad_offset, after_damage = offset, len(records)
        found = next(_later_records(data, offset + 1, expected, boxes), None)
        if found is None:
            break
        offset, expected = found.offset, found.record.sequence
    return Scan(records, bad_offset, after_damage, bad_offset is not None and _is_locked(data, boxes))


def _later_records(data: bytes, start: int, expected: int, boxes: Sequence[Box]) -> Iterator[Placed]:
    """Records at or after start that continue the sequence, skipping marks that only look like one."""
    for offset in _marks(data, start, (MARK, SEALED_MARK)):
        placed = decode_record(data, offset, boxes)
        if placed is not None and placed.record.sequence >= expected:
            yield placed


def _marks(data: bytes, start: int, marks: Sequence[bytes]) -> Iterator[int]:
    """Where one of these stands, in order."""
    places = {mark: data.find(mark, start) for mark in marks}
    while found := [(at, mark) for mark, at in places.items() if at >= 0]:
        at, mark = min(found)
        yield at
        places[mark] = data.find(mark, at + 1)


def _whole_sealed(data: bytes, offset: int) -> int:
    """Where the sealed record at this offset ends; 0 if its bytes are not those that were written."""
    if offset + _SEALED_AT + SEALED_MORE_BYTES + _LENGTHS.size > len(data):
        return 0
    checksum, length = struct.unpack_from("<II", data, offset + 4)
    end = int(offset + length)
    is_whole = (
        data[offset : offset + 4] == SEALED_MARK
        and length >= _SEALED_AT + SEALED_MORE_BYTES + _LENGTHS.size
        and end <= len(data)
        and crc32(data[offset + 8 : end]) == checksum
    )
    return end if is_whole else 0


def _open_record(data: bytes, offset: int, boxes: Sequence[Box]) -> Placed | None:
    end = _whole_sealed(data, offset)
    if not end:
        return None
    around, sealed = data[offset + 8 : offset + _SEALED_AT], data[offset + _SEALED_AT : end]
    for box in boxes:
        plain = box.open(sealed, around)
        if plain is not None:
            _, batch_offset, epoch, sequence, time = _SEALED_RECORD_HEAD.unpack(around)
            kind_bytes, trace_bytes = _LENGTHS.unpack_from(plain)
            kind_end = _LENGTHS.size + kind_bytes
            kind, trace_id = plain[_LENGTHS.size : kind_end], plain[kind_end : kind_end + trace_bytes]
            payload = plain[kind_end + trace_bytes :]
            return Placed(
                offset, end, batch_offset, Record(epoch, sequence, time, kind.decode(), payload, trace_id.decode())
            )
    return None


def _is_locked(data: bytes, boxes: Sequence[Box]) -> bool:
    """Is there a record that is whole, and that no box opens?"""
    places = _marks(data, 0, (SEALED_MARK,))
    return any(_whole_sealed(data, at) and _open_record(data, at, boxes) is None for at in places)
