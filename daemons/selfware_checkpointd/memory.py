"""All of checkpointd behind one object: sessions, their journals, the checkpoint store and recovery.

The idea: the gRPC service only translates. Disk work that can take long runs in threads, so the event loop stays
free; appends of one session share their fdatasync. Owns ``<root>/sessions`` and ``<root>/checkpoints``. Never logs:
``notes`` collects sentences about what was repaired or found damaged, for the daemon to log and clear.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from selfware_checkpointd.ahead import Ahead
from selfware_checkpointd.bounds import Bounds
from selfware_checkpointd.coldstore import ColdStore
from selfware_checkpointd.errors import SessionNotFoundError
from selfware_checkpointd.group_commit import GroupCommitter, Writers
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.recovery import Recovery, newest_intact, recover
from selfware_checkpointd.reserve import MOST_BYTES as RESERVE_BYTES
from selfware_checkpointd.room import NO_LIMIT, Room
from selfware_checkpointd.scrub import ScrubPolicy
from selfware_checkpointd.segment import Record
from selfware_checkpointd.segment_scrub import SegmentScrub
from selfware_checkpointd.sessions import Sessions
from selfware_checkpointd.store import COMPRESSION_LEVEL, Store, Subject, Verdict
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.tiering import ColdPolicy
from selfware_checkpointd.tiers import MOVE_BYTES
from selfware_checkpointd.upkeep import TIGHTEN_BYTES
from selfware_checkpointd.vault import NO_VAULT, Vault
from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.state.chunking import AVERAGE_BYTES
from selfware_common.state.comparing import Span
from selfware_common.state.scanning import Read

KEEP_ALL = Policy(retention_days=36_500, max_size_bytes=NO_LIMIT)
LEAST_CHUNK_BYTES = AVERAGE_BYTES // 4


class LastEnd(IntEnum):
    """How the writer before ended; numbered as in protos/checkpoint.proto."""

    UNKNOWN = 0
    GRACEFUL = 1
    CRASH = 2


@dataclass(frozen=True, slots=True)
class Opened:
    """What a new writer needs to know."""

    epoch: int
    last_sequence: int
    last_end: LastEnd = LastEnd.UNKNOWN


@dataclass(frozen=True, slots=True)
class Summary:
    """One line about a session."""

    session_id: str
    epoch: int
    created_unix_nanos: int
    last_sequence: int
    checkpoints: int
    journal_bytes: int
    writer_id: str
    opened_unix_nanos: int


class Memory:
    """What the agent knew."""

    def __init__(
        self,
        root: Path,
        clock: Callable[[], int] = time.time_ns,
        compression_level: int = COMPRESSION_LEVEL,
        policy: Policy = KEEP_ALL,
        reserve_bytes: int = RESERVE_BYTES,
        cold: ColdStore | None = None,
        vault: Vault = NO_VAULT,
    ) -> None:
        """Opens the store; journals are opened when they are first needed. Saves heed the policy's limit at once, and
        that of the last ``maintain`` from then on. ``cold``: where old packs may lie."""
        self.vault = vault
        self._clock = clock
        room = Room(policy.max_size_bytes)
        self.sessions = Sessions(root / "sessions")
        self.store = Store(root / "checkpoints", compression_level=compression_level, room=room, cold=cold, vault=vault)
        self.store.scrub.segments = SegmentScrub(self.sessions, self.store, vault)
        self.cold_policy, self.scrub_policy = ColdPolicy(), ScrubPolicy()
        self.notes: list[str] = list(self.store.opened)
        self._writers = Writers()
        self._doors: dict[str, GroupCommitter] = {}
        self._journals: dict[str, Journal] = {}
        self._lock = threading.Lock()
        self._maintaining = threading.Lock()
        self.bounds = Bounds(root, room, self.store, self.sessions, self._journals, policy, clock, reserve_bytes)

    async def open_session(self, session_id: str, writer_id: str) -> Opened:
        """Become the one writer; every earlier writer's epoch is refused from now on."""
        return await asyncio.to_thread(self._open_session, session_id, writer_id)

    async def close_session(self, session_id: str, epoch: int) -> None:
        """The present writer stops as it should; a stale one is refused."""
        await asyncio.to_thread(self.sessions.close, session_id, epoch)

    async def append(self, session_id: str, epoch: int, records: Sequence[Record]) -> int:
        """Make events durable; returns the session's last sequence. The records carry the same epoch."""
        self.sessions.check(session_id, epoch)
        door = self._doors.get(session_id)
        if door is None:
            journal = await asyncio.to_thread(self.journal, session_id)
            door = self._door(journal)
        if self.bounds.is_tight():
            await asyncio.to_thread(self.bounds.loosen)
        await door.submit(records)
        return door.journal.last_sequence

    def read(self, session_id: str, after_sequence: int) -> Iterator[Record]:
        """Durable events after a sequence (blocking: for a thread)."""
        return self.journal(session_id).read(after_sequence)

    async def wait_beyond(self, session_id: str, sequence: int) -> None:
        """Return when there are events after a sequence: for readers that follow."""
        journal = await asyncio.to_thread(self.journal, session_id)
        await self._door(journal).wait_beyond(sequence)

    async def save(
        self,
        session_id: str,
        epoch: int,
        level: Level,
        sequence: int,
        state: bytes | bytearray,
        label: str,
        expected_hash: bytes | None = None,
    ) -> CheckpointInfo:
        """A durable checkpoint by the present writer; a stale one is refused even in the middle."""
        self.sessions.check(session_id, epoch)
        now = self._clock()

        def check() -> None:
            self.sessions.check(session_id, epoch)

        def save() -> CheckpointInfo:
            return self.store.save(session_id, level, sequence, state, label, now, check, expected_hash)

        return await asyncio.to_thread(self._saving, level, len(state), save)

    def save_from(self, subject: Subject, epoch: int, size: int, read: Read) -> CheckpointInfo:
        """The same from a source that is read as it is saved; blocking: for a thread. The subject's time is ours."""
        self.sessions.check(subject.session_id, epoch)
        stamped = replace(subject, now_unix_nanos=self._clock())

        def save() -> CheckpointInfo:
            return self.store.save_from(stamped, size, read, lambda: self.sessions.check(subject.session_id, epoch))

        return self._saving(subject.level, size, save)

    def save_change(
        self,
        subject: Subject,
        epoch: int,
        base_id: str,
        spans: Sequence[Span],
        fresh: Iterable[memoryview],
        fresh_bytes: int,
        root: bytes,
        ahead: Ahead | None = None,
    ) -> CheckpointInfo:
        """A durable checkpoint of which only the change came (see Store.save_change); blocking: for a thread. fresh may
        be gone through twice."""
        self.sessions.check(subject.session_id, epoch)
        stamped = replace(subject, now_unix_nanos=self._clock())

        def check() -> None:
            self.sessions.check(subject.session_id, epoch)

        def save() -> CheckpointInfo:
            return self.store.save_change(stamped, base_id, spans, fresh, root, check, ahead)

        early_bytes = sum(len(data) for _, data in ahead.chunks) if ahead is not None else 0
        chunks = sum(span.count for span in spans)
        return self.bounds.saving(subject.level, fresh_bytes + early_bytes, chunks, save)

    async def load(self, checkpoint_id: str) -> tuple[CheckpointInfo, bytes]:
        """A verified state."""
        return await asyncio.to_thread(self.store.load, checkpoint_id)

    async def verify(self, checkpoint_id: str = "") -> list[Verdict]:
        """One checkpoint, or all of them."""
        if checkpoint_id:
            return [await asyncio.to_thread(self.store.verify, checkpoint_id)]
        return await asyncio.to_thread(self.store.verify_all)

    async def recover(self, session_id: str, checkpoint_id: str = "") -> Recovery:
        """Where the session goes on; changes nothing."""
        return await asyncio.to_thread(lambda: recover(session_id, self.store, self.journal(session_id), checkpoint_id))

    async def summaries(self) -> list[Summary]:
        """Every session, oldest first."""
        return await asyncio.to_thread(self._summaries)

    async def maintain(self, policy: Policy, most_bytes: int = TIGHTEN_BYTES) -> str:
        """Compress full journal segments, let old checkpoints go, pack about so many bytes tighter; one sentence."""
        return await asyncio.to_thread(self._maintain, policy, most_bytes)

    async def close(self) -> None:
        """Finish what was submitted; everything acknowledged is on disk already."""
        for door in self._doors.values():
            await door.close()
        self._writers.close()
        for journal in self._journals.values():
            journal.close()
        self.store.close()

    def journal(self, session_id: str) -> Journal:
        """The session's journal, opened on first use (blocking: for a thread)."""
        with self._lock:
            known = self._journals.get(session_id)
            if known is not None:
                return known
            session = self.sessions.get(session_id)
            journal = Journal(self.sessions.journal_directory(session_id), session_id, vault=self.vault)
            journal.fence(session.epoch)
            self.notes.extend(journal.opened)
            if journal.damage is not None:
                self.notes.append(journal.damage.sentence)
            self._cover(session_id, journal)
            self._journals[session_id] = journal
            return journal

    def _saving(self, level: Level, size: int, save: Callable[[], CheckpointInfo]) -> CheckpointInfo:
        return self.bounds.saving(level, size, 1 + size // LEAST_CHUNK_BYTES, save)

    def _door(self, journal: Journal) -> GroupCommitter:
        return self._doors.setdefault(journal.session_id, GroupCommitter(journal, self._writers))

    def _open_session(self, session_id: str, writer_id: str) -> Opened:
        with self._lock:
            last_end = self._last_end(session_id)
            session = self.sessions.open(session_id, writer_id, self._clock())
        journal = self.journal(session_id)
        self._cover(session_id, journal)  # a fork begins with a checkpoint, and its journal was empty until then
        return Opened(session.epoch, journal.fence(session.epoch), last_end)

    def _last_end(self, session_id: str) -> LastEnd:
        try:
            before = self.sessions.get(session_id)
        except SessionNotFoundError:
            return LastEnd.UNKNOWN
        return LastEnd.GRACEFUL if before.is_closed else LastEnd.CRASH

    def _cover(self, session_id: str, journal: Journal) -> None:
        """Let an intact checkpoint stand in for events that the journal has lost; read only if it matters."""
        furthest = max((info.sequence for info in self.store.checkpoints(session_id)), default=0)
        if journal.damage is None and furthest <= journal.last_sequence:
            return
        newest, _, skipped = newest_intact(session_id, self.store)
        self.notes.extend(skipped)
        if newest is not None:
            journal.cover(newest.sequence)

    def _summaries(self) -> list[Summary]:
        found = []
        for session_id in self.sessions.all():
            try:
                session, journal = self.sessions.get(session_id), self.journal(session_id)
            except SelfwareError as error:
                self.notes.append(error.sentence)
                continue
            found.append(
                Summary(
                    session_id,
                    session.epoch,
                    session.created_unix_nanos,
                    journal.last_sequence,
                    len(self.store.checkpoints(session_id)),
                    journal.size_bytes,
                    session.writer_id,
                    self.sessions.opened_unix_nanos(session_id),
                )
            )
        return sorted(found, key=lambda summary: (summary.created_unix_nanos, summary.session_id))

    def _maintain(self, policy: Policy, most_bytes: int) -> str:
        tiers, now = self.store.tiers, self._clock()
        with self._maintaining:
            pushed = ""
            with suppress(SelfwareError):  # no room for a stub: what is copied already went, the rest is deleted
                pushed = self._push_out(policy, now)
            retained = self.bounds.keep(policy, self.journal)  # early: it makes room, and the rest needs some
            self.notes.extend(self.bounds.taken_notes())
            sealed, rest = 0, list[str]()
            steps: list[Callable[[], int | str]] = [journal.seal for journal in list(self._journals.values())]
            steps.append(lambda: self.store.tighten(most_bytes, may_wait=True))
            steps.append(lambda: tiers.turn(self.cold_policy, now, max(most_bytes, MOVE_BYTES)))
            steps.append(lambda: self.store.scrub.turn(self.scrub_policy, now))
            for step in steps:
                try:
                    done = step()
                except DiskFullError as error:
                    rest.append(f"no more than that: {error.sentence}")
                    break
                except SelfwareError as error:  # of one file: the others are looked after
                    rest.append(f"some of it has to wait: {error.sentence}")
                    continue
                if isinstance(done, str):
                    rest.append(done)
                else:
                    sealed += done
            self.notes += tiers.taken_notes() + self.store.scrub.taken_notes()
            said = [f"compressed {sealed} journal segments", pushed, retained, *rest]
            return ", ".join(one for one in said if one)

    def _push_out(self, policy: Policy, now: int) -> str:
        """To the cold store what would else have to be deleted."""
        over = self.bounds.room.used_bytes() + self.bounds.room.free_bytes - policy.max_size_bytes
        return self.store.tiers.make_room(self.store.disk_bytes() - over, now) if over > 0 else ""
