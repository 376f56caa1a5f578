"""The journal of one session: events in order, each durable before it is acknowledged.

The idea: one write and one fdatasync for many events; never two truths. An event that comes again with the same
content is acknowledged again and not written; with other content it is a conflict; out of order it is a gap. After
a failed write the file goes back to its last durable length, so that the journal goes on when the disk does.

Owns the directory ``journal/`` of its session and the descriptor of the segment being written. Appending is for one
thread at a time (a lock enforces it); reading may happen meanwhile and sees durable events only. Damage is told
apart from an unfinished write as ``segment`` explains. Never logs: ``opened`` says in sentences what was repaired.
"""

from __future__ import annotations

import contextlib
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from selfware_checkpointd import sealing, trimming
from selfware_checkpointd.batch import Batch, Begun
from selfware_checkpointd.errors import (
    EventsLetGoError,
    JournalCorruptError,
    JournalStoppedError,
    SequenceConflictError,
    SequenceGapError,
    StaleWriterError,
    StorageError,
    disk_error,
)
from selfware_checkpointd.files import Sync, make_directory, remove_leftovers, sync_directory, write_all
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.reopening import reopen
from selfware_checkpointd.segment import Record, decode_record, encode_header
from selfware_checkpointd.trimming import Closed
from selfware_checkpointd.vault import NO_VAULT, Box, Vault
from selfware_common.errors import SelfwareError

SEGMENT_BYTES = 4 * 1024 * 1024
NO_FILE = -1


class Journal:
    """All events of one session, on disk."""

    def __init__(
        self,
        directory: Path,
        session_id: str,
        segment_bytes: int = SEGMENT_BYTES,
        sync: Sync = os.fdatasync,
        vault: Vault = NO_VAULT,
    ) -> None:
        """Open or create; a torn tail is cut, other damage is kept for ``damage``. Raises KeyMissingError."""
        self.session_id = session_id
        self.opened: list[str] = []
        self.damage: JournalCorruptError | None = None
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._sync = sync
        self._lock = threading.Lock()
        self._stopped: JournalStoppedError | None = None
        self._failed_write = ""  # why there are bytes beyond the durable ones that could not be taken back yet
        self._epoch = 0
        self._covered = 0  # a checkpoint holds everything up to here
        self._damage_until = 0  # the last event that damage in the newest segment has taken
        self._last = 0
        self._floor = 0  # events up to here were let go
        self.grown_bytes = 0  # what was written since it was opened
        self._firsts: list[int] = []
        self._file = NO_FILE
        self._durable_bytes = 0
        self._offsets = array("Q")  # of the records in the segment being written
        self._keys = JournalKeys(session_id, vault)
        self._box: Box | None = None  # what those records are sealed with
        self._settled: set[int] = set()  # segments that are sealed as they should be
        self._segments = trimming.Segments(directory, session_id, self._keys)
        try:
            self._open()
        except OSError as error:
            raise disk_error(error, f"the journal of session {session_id}", directory) from error

    @property
    def last_sequence(self) -> int:
        """The last event that is durable here or covered by a checkpoint; 0 if there is none."""
        return max(self._last, self._covered)

    @property
    def size_bytes(self) -> int:
        """What the journal takes on disk."""
        total = 0
        for path in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # sealed meanwhile
                total += path.stat().st_size
        return total

    @property
    def floor(self) -> int:
        """The last event that was let go; 0 if all are there."""
        return self._floor

    def fence(self, epoch: int) -> int:
        """Refuse older writers from now on; returns the last event that any of them made durable."""
        with self._lock:
            self._epoch = max(self._epoch, epoch)
            return self.last_sequence

    def cover(self, sequence: int) -> None:
        """Everything up to sequence lives in an intact checkpoint: what is lost before it no longer matters."""
        with self._lock:
            self._covered = max(self._covered, sequence)

    def append(self, records: Sequence[Record]) -> None:
        """Make one writer's events durable: all of them, or none and an error."""
        (outcome,) = self.commit([records])
        if outcome is not None:
            raise outcome

    def commit(self, submissions: Sequence[Sequence[Record]]) -> list[SelfwareError | None]:
        """Make many submissions durable with one write; one refused submission does not touch the others."""
        return self.finish(self.begin(submissions))

    def begin(self, submissions: Sequence[Sequence[Record]]) -> Begun:
        """The first half: written, and known to nobody. ``finish`` must follow, and until then everybody else waits:
        so several journals are written first and synced then, and the file system does its own book-keeping once."""
        self._lock.acquire()
        try:
            self._refuse_if_unable()
            batch = self._next_batch()
            begun = Begun([self._admit(records, batch) for records in submissions], batch)
            if batch.records:
                self._attempt(self._write, begun)
            return begun
        except SelfwareError as error:
            return Begun([error] * len(submissions), None)
        except BaseException:
            self._lock.release()
            raise

    def hasten(self, begun: Begun) -> None:
        """In between, where others are written, too, before anybody waits for the disk: let it begin. To be told that
        these bytes are not needed in memory, the system starts to write them, and a sync finds them under way."""
        if begun.batch is not None and begun.batch.records:
            with contextlib.suppress(OSError):  # advice only: the sync says what is wrong
                os.posix_fadvise(self._file, self._durable_bytes, 0, os.POSIX_FADV_DONTNEED)

    def finish(self, begun: Begun) -> list[SelfwareError | None]:
        """The second half: durable, or why not, for each submission."""
        try:
            if begun.batch is not None and begun.batch.records:
                self._attempt(self._make_durable, begun)
            return begun.outcomes
        finally:
            self._lock.release()

    def read(self, after_sequence: int = 0) -> Iterator[Record]:
        """Durable events after a sequence, in order; raises JournalCorruptError where the first one is missing."""
        expected = after_sequence + 1
        with self._lock:
            firsts, last = list(self._firsts), self._last
            limit = self._durable_bytes if self._file != NO_FILE else None
            start = self._offset_in_newest(expected)
        if expected > last:
            return
        self._refuse_let_go(expected)
        place = ("its first segment", 0)
        for first in firsts[max(0, bisect_right(firsts, expected) - 1) :]:
            is_newest = first == firsts[-1]
            data = sealing.read_segment(self._directory, first, limit if is_newest else None, self._keys)
            found = self._keys.scan(data, first, *((start, expected) if is_newest and start else ()))
            place = (sealing.plain_path(self._directory, first).name, found.bad_offset or 0)
            for placed in found.records:
                if placed.record.sequence < expected:
                    continue
                if placed.record.sequence > expected:
                    self._refuse_let_go(expected)
                    raise self._corrupt(place[0], place[1] or placed.offset, expected - 1)
                yield placed.record
                expected += 1
        if expected <= last:
            self._refuse_let_go(expected)
            raise self._corrupt(place[0], place[1], expected - 1)

    def closed(self) -> list[Closed]:
        """The segments after which another one began, oldest first."""
        with self._lock:
            firsts = list(self._firsts)
        return self._segments.closed(firsts)

    def trim(self, last: int) -> int:
        """Let whole segments up to this event go; returns how many. Whoever dies when: the next one finishes it."""
        with self._lock:
            going = [first for first, then in pairwise(self._firsts) if then - 1 <= last]
            if not going:
                return 0
            kept = self._firsts[len(going) :]
            try:
                trimming.write_floor(self._directory, kept[0] - 1)
                self._floor, self._firsts = kept[0] - 1, kept
                sealing.remove(self._directory, going)
            except OSError as error:
                raise disk_error(error, "how far the journal was let go", self._directory) from error
            return len(going)

    def seal(self) -> int:
        """Compress segments that are full; returns how many. For quiet moments, not for the path of an append."""
        sealed = 0
        for first in [first for first in self._firsts[:-1] if first not in self._settled]:
            try:
                sealed += sealing.settle(self._directory, first, self._keys)
            except OSError as error:
                raise disk_error(error, "a compressed journal segment", self._directory) from error
            self._settled.add(first)
        return sealed

    def close(self) -> None:
        """Give the descriptor back; everything acknowledged is on disk already."""
        with self._lock:
            self._close_file()
            self._failed_write = ""
            self._stopped = JournalStoppedError(session_id=self.session_id, reason="it was closed")

    def _open(self) -> None:
        make_directory(self._directory)
        remove_leftovers(self._directory)
        self._floor = trimming.read_floor(self._directory)
        sealing.remove(self._directory, [n for n in sealing.first_sequences(self._directory) if n <= self._floor])
        found = reopen(self._directory, self.session_id, self._keys)
        self.opened, self._firsts, self._last = found.repaired, found.firsts, max(found.last, self._floor)
        if found.damage is not None:
            self.damage = self._corrupt(found.damage.segment, found.damage.offset, found.damage.last_good)
            self._damage_until = found.damage.until
        if found.size_bytes:
            path = sealing.plain_path(self._directory, found.firsts[-1])
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._sync(self._file)  # what a killed predecessor wrote and did not sync is readable from now on
            self._durable_bytes, self._offsets, self._box = found.size_bytes, array("Q", found.offsets), found.box

    # ---- appending

    def _refuse_if_unable(self) -> None:
        if self._failed_write:
            self._take_back()
        if self._stopped is not None:
            raise JournalStoppedError(**self._stopped.fields)
        if self.damage is not None and self._damage_until > self._covered:
            raise JournalCorruptError(**self.damage.fields)

    def _admit(self, records: Sequence[Record], batch: Batch) -> SelfwareError | None:
        """Add the new ones of one submission to the batch, or none of them and the reason."""
        accepted = len(batch.records)
        expected = batch.first_sequence + accepted
        try:
            for record in records:
                if record.sequence == expected and record.epoch >= self._epoch:
                    batch.add(record)
                    expected += 1
                else:
                    self._accept_only_a_repetition(record, expected, batch)
        except SelfwareError as error:
            del batch.records[accepted:], batch.pieces[accepted:]
            return error
        return None

    def _accept_only_a_repetition(self, record: Record, expected: int, batch: Batch) -> None:
        if record.epoch < self._epoch:
            raise StaleWriterError(session_id=self.session_id, epoch=record.epoch, current=self._epoch)
        if not 0 < record.sequence < expected:
            raise SequenceGapError(session_id=self.session_id, expected=expected, sequence=record.sequence)
        index = record.sequence - batch.first_sequence
        known = batch.records[index] if index >= 0 else self._find(record.sequence)
        if known is None or not known.same_content(record):
            raise SequenceConflictError(session_id=self.session_id, sequence=record.sequence)

    def _find(self, sequence: int) -> Record | None:
        """A durable record by its number, or None if damage or a checkpoint stands in its place."""
        if not self._firsts:
            return None
        if start := self._offset_in_newest(sequence):
            index = sequence - self._firsts[-1] + 1
            end = self._offsets[index] if index < len(self._offsets) else self._durable_bytes
            try:
                placed = decode_record(os.pread(self._file, end - start, start), 0, [self._box] if self._box else ())
            except OSError as error:
                raise StorageError(what="read the journal", path=self._directory, reason=str(error)) from error
            return placed.record if placed else None
        first = self._firsts[max(0, bisect_right(self._firsts, sequence) - 1)]
        for placed in self._keys.scan(sealing.read_segment(self._directory, first, keys=self._keys), first).records:
            if placed.record.sequence == sequence:
                return placed.record
        return None

    def _attempt(self, step: Callable[[Batch], None], begun: Begun) -> None:
        """On failure back to the last durable length, and no step for this batch any more."""
        assert begun.batch is not None
        try:
            step(begun.batch)
        except OSError as error:
            self._failed_write = error.strerror or str(error)
            self._take_back()
            reason = disk_error(error, f"events of session {self.session_id}", self._directory)
            begun.outcomes = [outcome or reason for outcome in begun.outcomes]
            begun.batch = None
        except SelfwareError as error:  # there is no segment to write to
            begun.outcomes = [outcome or error for outcome in begun.outcomes]
            begun.batch = None

    def _write(self, batch: Batch) -> None:
        if self._needs_new_segment(batch.first_sequence):
            self._start_segment(batch.first_sequence, batch.box)
        write_all(self._file, [b"".join(batch.pieces)])

    def _make_durable(self, batch: Batch) -> None:
        self._sync(self._file)
        *starts, self._durable_bytes = accumulate(map(len, batch.pieces), initial=self._durable_bytes)
        self._offsets.extend(starts)
        self._last = batch.records[-1].sequence
        self.grown_bytes += self._durable_bytes - batch.offset

    def _take_back(self) -> None:
        """Back to the last durable length; while the disk refuses even that, every append begins with another try."""
        try:
            os.ftruncate(self._file, self._durable_bytes)
            os.fdatasync(self._file)
        except OSError as second:
            reason = f"after '{self._failed_write}' the unfinished write could not be taken back ({second.strerror})"
            self._stopped = JournalStoppedError(session_id=self.session_id, reason=reason)
        else:
            self._stopped, self._failed_write = None, ""

    def _next_batch(self) -> Batch:
        first = self.last_sequence + 1
        if self._needs_new_segment(first):
            return Batch(first, self._keys.header_bytes, self._keys.for_segment(first))
        return Batch(first, self._durable_bytes, self._box)

    def _needs_new_segment(self, next_sequence: int) -> bool:
        if self._file == NO_FILE or next_sequence != self._last + 1:
            return True
        if (self._box.key_id if self._box else None) != self._keys.key_id:
            return True
        return self._durable_bytes >= self._segment_bytes and bool(self._offsets)

    def _start_segment(self, first: int, box: Box | None) -> None:
        """Create the next segment durably, then leave the full one to ``seal``."""
        path = sealing.plain_path(self._directory, first)
        file = NO_FILE
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
            write_all(file, [encode_header(first, box.key_id if box else None)])
            self._sync(file)
            sync_directory(self._directory)
        except OSError as error:
            if file != NO_FILE:
                os.close(file)
            with contextlib.suppress(OSError):  # an empty segment that stays is removed at the next open
                path.unlink(missing_ok=True)
            raise disk_error(error, f"a journal segment of session {self.session_id}", path.parent) from error
        self._close_file()
        self._file, self._durable_bytes, self._offsets = file, self._keys.header_bytes, array("Q")
        self._box = box
        if first not in self._firsts:
            self._firsts.append(first)

    def _close_file(self) -> None:
        if self._file != NO_FILE:
            os.close(self._file)
            self._file = NO_FILE

    # ---- helpers

    def _refuse_let_go(self, sequence: int) -> None:
        if sequence <= self._floor:
            raise EventsLetGoError(session_id=self.session_id, last=self._floor)

    def _offset_in_newest(self, sequence: int) -> int:
        """Where a record lies in the segment being written; 0 if it is not there."""
        if self._file == NO_FILE or not 0 <= sequence - self._firsts[-1] < len(self._offsets):
            return 0
        return self._offsets[sequence - self._firsts[-1]]

    def _corrupt(self, name: str, offset: int, last_good: int) -> JournalCorruptError:
        return JournalCorruptError(session_id=self.session_id, segment=name, offset=offset, last_good=last_good)
