"""Many coroutines, one fdatasync: callers that arrive while the disk is busy share the next write.

The idea: no timer and no minimum batch. A lone caller is written at once; under load a batch is what came while the
one before it was being written. ``submit`` returns only after its own records are durable.

Owns one worker thread at a time and the queue in front of it. Never decides what a record may be: the journal does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from selfware_checkpointd.errors import JournalStoppedError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.segment import Record
from selfware_common.errors import SelfwareError

MAX_SUBMISSIONS = 1024

Waiting = list[tuple[Sequence[Record], asyncio.Future[None]]]


class GroupCommitter:
    """The asyncio door of one journal."""

    def __init__(self, journal: Journal) -> None:
        """The worker thread starts with the first submission."""
        self._journal = journal
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"journal-{journal.session_id}")
        self._waiting: Waiting = []
        self._pump: asyncio.Task[None] | None = None
        self._grown: asyncio.Future[None] | None = None

    async def submit(self, records: Sequence[Record]) -> None:
        """Wait until these records are on disk; raises the reason if they are not."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, done))
        if self._pump is None:
            self._pump = asyncio.create_task(self._run(), name="group-commit")
        await done

    async def wait_beyond(self, sequence: int) -> None:
        """Return once the journal is durable beyond a sequence: for readers that follow it."""
        while self._journal.last_sequence <= sequence:
            if self._grown is None:
                self._grown = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._grown)

    async def close(self) -> None:
        """Finish what was submitted, then stop the worker thread."""
        if self._pump is not None:
            await self._pump
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        batch: Waiting = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_SUBMISSIONS], self._waiting[MAX_SUBMISSIONS:]
                work = loop.run_in_executor(self._thread, self._journal.commit, [records for records, _ in batch])
                _tell(batch, await work)
                self._wake_followers()
        finally:  # after a defect or a cancellation nobody is left waiting
            self._pump = None
            _tell_stopped(batch + self._waiting, self._journal.session_id)

    def _wake_followers(self) -> None:
        if self._grown is not None:
            self._grown.set_result(None)
            self._grown = None


def _tell(batch: Waiting, outcomes: Sequence[SelfwareError | None]) -> None:
    """Hand every caller its outcome; a caller that was cancelled meanwhile hears nothing."""
    for (_, done), outcome in zip(batch, outcomes, strict=True):
        if done.done():
            continue
        if outcome is None:
            done.set_result(None)
        else:
            done.set_exception(outcome)


def _tell_stopped(batch: Waiting, session_id: str) -> None:
    for _, done in batch:
        if not done.done():
            done.set_exception(JournalStoppedError(session_id=session_id, reason="its writer ended early"))
