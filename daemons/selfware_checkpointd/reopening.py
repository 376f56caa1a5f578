"""What a journal finds when it is opened again: where to go on, what was unfinished, what is damaged.

Only the newest segment is read: all others were complete and durable before it was begun, and whoever reads them
notices damage by the numbers. An unfinished write is cut off here (``segment`` explains how it is told from
damage); a damaged header is written anew, for the file's name says all that it says; other damage is left as it is.
Harmless when it runs twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from selfware_checkpointd import sealing
from selfware_checkpointd.files import sync_directory
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.segment import Scan, encode_header, key_id_of, opened_by, scan
from selfware_checkpointd.vault import Box


@dataclass(frozen=True, slots=True)
class Damage:
    """The first bad place of the newest segment, and the last event it can have taken."""

    segment: str
    offset: int
    last_good: int
    until: int


@dataclass(slots=True)
class Found:
    """The state of a journal directory."""

    firsts: list[int]
    last: int = 0
    size_bytes: int = 0  # of the segment to go on with; 0: begin a new one
    offsets: list[int] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    damage: Damage | None = None
    box: Box | None = None  # what the records of the segment to go on with are sealed with


def reopen(directory: Path, session_id: str, keys: JournalKeys) -> Found:
    """Cut what is unfinished and report the rest. KeyMissingError, and nothing is changed, if the segment is encrypted
    with a key that is not here."""
    found = Found(sealing.first_sequences(directory))
    while found.firsts:
        first = found.firsts[-1]
        data = sealing.read_segment(directory, first, keys=keys)
        boxes = keys.of_segment(data, first)
        seen = scan(data, first, boxes=boxes)
        plain = sealing.plain_path(directory, first)
        if seen.bad_offset == 0 and seen.records and plain.exists():
            box = opened_by(data, seen.records[0].offset, boxes)
            header = encode_header(first, box.key_id if box else None)
            found.repaired.append(_mend_header(plain, header, session_id))
            data = header + data[len(header) :]
            seen = scan(data, first, boxes=boxes)
        if seen.is_torn and plain.exists():
            found.repaired.append(_cut(plain, first, len(data), seen, session_id))
            if seen.bad_offset == 0:
                found.firsts.pop()
                continue
            data, seen = data[: seen.bad_offset], Scan(seen.records[: seen.after_damage], None, 0)
        found.last = seen.records[-1].record.sequence if seen.records else first - 1
        if seen.bad_offset is not None:
            found.damage = _damage(plain.name, first, seen)
        elif plain.exists():
            found.size_bytes = len(data)
            found.offsets = [placed.offset for placed in seen.records]
            found.box = boxes[0] if key_id_of(data, first) else None
        break
    return found


def _mend_header(plain: Path, header: bytes, session_id: str) -> str:
    """Events were found behind it, so it was whole and durable once: nothing is lost with it."""
    file = os.open(plain, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(file, header, 0)
        os.fdatasync(file)
    finally:
        os.close(file)
    return f"journal of {session_id}: wrote the damaged header of {plain.name} anew; no event was lost with it"


def _cut(plain: Path, first: int, size: int, seen: Scan, session_id: str) -> str:
    offset = seen.bad_offset or 0
    kept = seen.records[: seen.after_damage]
    if offset == 0:
        plain.unlink()
        sync_directory(plain.parent)
    else:
        os.truncate(plain, offset)
    last = kept[-1].record.sequence if kept else first - 1
    return (
        f"journal of {session_id}: cut {size - offset} unfinished bytes off {plain.name} at byte {offset}; "
        f"the last event is {last}"
    )


def _damage(name: str, first: int, seen: Scan) -> Damage:
    kept, beyond = seen.records[: seen.after_damage], seen.records[seen.after_damage :]
    last_good = kept[-1].record.sequence if kept else first - 1
    until = beyond[0].record.sequence - 1 if beyond else last_good + 1
    return Damage(name, seen.bad_offset or 0, last_good, until)
