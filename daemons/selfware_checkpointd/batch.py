"""What one write to a journal makes durable, and what those who submitted it will hear.

Owns nothing: the journal fills these in, the committing thread carries them from the first half of a commit to the
second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from selfware_checkpointd.segment import Record, encode_record
from selfware_checkpointd.vault import Box
from selfware_common.errors import SelfwareError


@dataclass(slots=True)
class Batch:
    """What one write will make durable."""

    first_sequence: int
    offset: int
    box: Box | None = None  # what its records are sealed with
    records: list[Record] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Go on with this event; InvalidRecordError if it cannot be written."""
        self.pieces.append(encode_record(record, self.offset, self.box))
        self.records.append(record)


@dataclass(slots=True)
class Begun:
    """A commit between its halves: what each submission hears, and what is written, if anything is."""

    outcomes: list[SelfwareError | None]
    batch: Batch | None
