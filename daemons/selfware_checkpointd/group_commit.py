"""Many coroutines, one fdatasync: callers that arrive while the disk is busy share the next write.

The idea: no timer and no minimum batch. A lone caller is written at once; under load a batch is what came while the
one before it was being written. ``submit`` is over only when its own records are durable. Waking a thread and being
woken by it costs as much as a quick disk's fdatasync, so a lone small batch is written right here while the disk is
quick; from the first slow answer on, for large batches, and when several journals have something to write, worker
threads wait for the disk and the loop is free. They are few and all journals share them: a disk answers several
fdatasyncs at once sooner than one after the other, and a thread that takes many journals is woken once for them.

``GroupCommitter`` owns the queue in front of one journal, ``Writers`` owns the threads. Neither decides what a record
may be: the journal does.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from selfware_checkpointd.batch import Begun
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.segment import Record
from selfware_common.errors import SelfwareError

MAX_SUBMISSIONS = 1024
MAX_BYTES_IN_LOOP = 64 * 1024
MAX_IN_LOOP = (
    128  # callers of one journal: it keeps the loop for as long as a quick disk takes, and two threads from waking
)
QUICK_SECONDS = 0.001
THREADS = 4

Work = list[Sequence[Record]]
Outcomes = list[SelfwareError | None]


class Writers:
    """The threads that wait for the disk, for every journal of one event loop."""

    def __init__(self, quick_seconds: float = QUICK_SECONDS, threads: int = THREADS) -> None:
        """With quick_seconds=0 every write goes through a thread."""
        self._quick_seconds = quick_seconds
        self._latest_seconds = math.inf  # unknown: let the first write go through a thread
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="journal")
        self._most = self._free = threads
        self._due: list[GroupCommitter] = []
        self._is_scheduled = False

    def write_soon(self, door: GroupCommitter) -> None:
        """Write in the next round of the loop, so that all who come in this round share the write."""
        self._due.append(door)
        if not self._is_scheduled and self._free:
            self._is_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._share_out, loop)

    def close(self) -> None:
        """Stop the threads; every door must be closed before."""
        self._threads.shutdown(wait=True)

    def _share_out(self, loop: asyncio.AbstractEventLoop) -> None:
        """Equal shares for the threads that are free; what is left waits, and grows, until one of them is."""
        self._is_scheduled = False
        if len(self._due) == 1 and self._free == self._most and self._latest_seconds < self._quick_seconds:
            door = self._due[0]
            if door.waiting_count() <= MAX_IN_LOOP and door.waiting_bytes() <= MAX_BYTES_IN_LOOP:
                self._due.clear()
                self._write_here(door)
                return
        while self._due and self._free:
            count = -(-len(self._due) // self._free)
            doors, self._due = self._due[:count], self._due[count:]
            self._free -= 1
            ended = loop.run_in_executor(self._threads, self._commit, [(door.journal, door.take()) for door in doors])
            ended.add_done_callback(partial(self._finish, loop, doors))

    def _write_here(self, door: GroupCommitter) -> None:
        try:
            (outcomes,) = self._commit([(door.journal, door.take())])
        except BaseException as defect:
            door.finish(defect)
            raise
        door.finish(outcomes)

    def _commit(self, share: list[tuple[Journal, Work]]) -> list[Outcomes]:
        started = time.perf_counter()
        found: list[Outcomes] = []
        with ExitStack() as begun:  # a defect in one must not leave the others locked
            halves = []
            for journal, work in reversed(share):
                half = journal.begin(work)
                begun.callback(_finish, journal, half, found)
                halves.append((journal, half))
            if len(halves) > 1:
                for journal, half in halves:
                    journal.hasten(half)
        self._latest_seconds = (time.perf_counter() - started) / len(share)
        return found

    def _finish(
        self, loop: asyncio.AbstractEventLoop, doors: list[GroupCommitter], done: asyncio.Future[list[Outcomes]]
    ) -> None:
        self._free += 1
        defect = done.exception()
        for number, door in enumerate(doors):
            door.finish(done.result()[number] if defect is None else defect)
        if self._due and not self._is_scheduled:
            self._share_out(loop)


def _finish(journal: Journal, half: Begun, found: list[Outcomes]) -> None:
    found.append(journal.finish(half))


class GroupCommitter:
    """The asyncio door of one journal; used from one event loop."""

    def __init__(self, journal: Journal, writers: Writers | None = None) -> None:
        """Without writers to share it has its own and stops them at the end."""
        self.journal = journal
        self._writers = writers or Writers()
        self._owns_writers = writers is None
        self._waiting: list[tuple[Sequence[Record], asyncio.Future[None]]] = []
        self._writing: list[asyncio.Future[None]] = []
        self._is_due = False
        self._grown: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None

    def submit(self, records: Sequence[Record]) -> asyncio.Future[None]:
        """Done once these records are on disk; fails with the reason if they are not."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if not self._is_due:
            self._is_due = True
            self._writers.write_soon(self)
        return done

    async def wait_beyond(self, sequence: int) -> None:
        """Return once the journal is durable beyond a sequence: for readers that follow it."""
        while self.journal.last_sequence <= sequence:
            if self._grown is None:
                self._grown = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._grown)

    async def close(self) -> None:
        """Finish what was submitted."""
        while self._is_due:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        if self._owns_writers:
            self._writers.close()

    # ---- for Writers: take, commit, finish; then the next batch

    def waiting_count(self) -> int:
        """How many callers wait for the next write."""
        return len(self._waiting)

    def waiting_bytes(self) -> int:
        """How much is to be written next."""
        return sum(len(record.payload) for records, _ in self._waiting for record in records)

    def take(self) -> Work:
        """What to write now; whoever comes later is in the next batch."""
        taken, self._waiting = self._waiting[:MAX_SUBMISSIONS], self._waiting[MAX_SUBMISSIONS:]
        self._writing = [done for _, done in taken]
        return [records for records, _ in taken]

    def finish(self, outcomes: Outcomes | BaseException) -> None:
        """Hand every caller its outcome; a caller that was cancelled meanwhile hears nothing."""
        if isinstance(outcomes, BaseException):  # a defect: whoever waits must hear of it, not wait for ever
            reasons: Sequence[BaseException | None] = [outcomes] * len(self._writing)
        else:
            reasons = outcomes
        for done, reason in zip(self._writing, reasons, strict=True):
            if done.done():
                continue
            if reason is None:
                done.set_result(None)
            else:
                done.set_exception(reason)
        self._writing = []
        self._is_due = bool(self._waiting)
        if self._is_due:
            self._writers.write_soon(self)
        if self._grown is not None:
            self._grown.set_result(None)
            self._grown = None
        if self._idle is not None and not self._is_due:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None
