"""Many coroutines, one fdatasync: callers that arrive while the disk is busy share the next write.

The idea: no timer and no minimum batch. A lone caller is written at once; under load a batch is what came while the
one before it was being written. ``submit`` returns only after its own records are durable. Waking a thread and being
woken by it costs as much as a quick disk's fdatasync, so a small batch is written right here while the disk is
quick; from the first slow answer on, and for large batches, a worker thread waits for the disk and the loop is free.

Owns the queue in front of one journal and one worker thread. Never decides what a record may be: the journal does.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from selfware_checkpointd.journal import Journal
from selfware_checkpointd.segment import Record
from selfware_common.errors import SelfwareError

MAX_SUBMISSIONS = 1024
MAX_BYTES_IN_LOOP = 256 * 1024
QUICK_SECONDS = 0.001

Waiting = list[tuple[Sequence[Record], asyncio.Future[None]]]
Outcomes = list[SelfwareError | None]


class GroupCommitter:
    """The asyncio door of one journal; used from one event loop."""

    def __init__(self, journal: Journal, quick_seconds: float = QUICK_SECONDS) -> None:
        """With quick_seconds=0 every write goes through the worker thread."""
        self._journal = journal
        self._quick_seconds = quick_seconds
        self._latest_seconds = math.inf  # unknown: let the first write go through the thread
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"journal-{journal.session_id}")
        self._waiting: Waiting = []
        self._writing: Waiting = []
        self._is_due = False
        self._grown: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None

    async def submit(self, records: Sequence[Record]) -> None:
        """Wait until these records are on disk; raises the reason if they are not."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append((records, done))
        self._schedule(loop)
        await done

    async def wait_beyond(self, sequence: int) -> None:
        """Return once the journal is durable beyond a sequence: for readers that follow it."""
        while self._journal.last_sequence <= sequence:
            if self._grown is None:
                self._grown = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._grown)

    async def close(self) -> None:
        """Finish what was submitted, then stop the worker thread."""
        while self._waiting or self._writing:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._thread.shutdown(wait=True)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write in the next round of the loop, so that all who come in this round share the write."""
        if not self._is_due and not self._writing and self._waiting:
            self._is_due = True
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_due = False
        self._writing, self._waiting = self._waiting[:MAX_SUBMISSIONS], self._waiting[MAX_SUBMISSIONS:]
        work = [records for records, _ in self._writing]
        size = sum(len(record.payload) for records in work for record in records)
        if self._latest_seconds < self._quick_seconds and size <= MAX_BYTES_IN_LOOP:
            self._finish(loop, self._commit(work))
        else:
            ended = loop.run_in_executor(self._thread, self._commit, work)
            ended.add_done_callback(lambda done: self._finish(loop, done.result()))

    def _commit(self, work: list[Sequence[Record]]) -> Outcomes:
        started = time.perf_counter()
        outcomes = self._journal.commit(work)
        self._latest_seconds = time.perf_counter() - started
        return outcomes

    def _finish(self, loop: asyncio.AbstractEventLoop, outcomes: Outcomes) -> None:
        """Hand every caller its outcome; a caller that was cancelled meanwhile hears nothing."""
        for (_, done), outcome in zip(self._writing, outcomes, strict=True):
            if done.done():
                continue
            if outcome is None:
                done.set_result(None)
            else:
                done.set_exception(outcome)
        self._writing = []
        self._schedule(loop)
        if self._grown is not None:
            self._grown.set_result(None)
            self._grown = None
        if self._idle is not None and not self._waiting:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None
