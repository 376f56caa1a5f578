"""Whether the engine is there: the health that people see, and the gate in front of the queue.

The daemon's cycle looks every couple of seconds. While somebody waits at a shut gate a task of its own looks more
often (50 ms, growing to 500 ms), so that a restarted engine is used within a moment; while nobody waits it costs
nothing.
"""

from __future__ import annotations

import asyncio

from selfware_inferenced.admission import Admission
from selfware_inferenced.engines import Engine, Health
from selfware_inferenced.engines.failures import EngineFailure, Remedy

FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 0.5
LONGEST_BUSY_DELAY_SECONDS = 10.0
LONGEST_ASKED_PAUSE_SECONDS = 120.0


def delay_seconds(failures_in_a_row: int, remedy: Remedy, asked_seconds: float = 0.0) -> float:
    """How long to leave an engine alone after it failed; what it asked for itself counts, within reason."""
    longest = LONGEST_BUSY_DELAY_SECONDS if remedy is Remedy.PAUSE else LONGEST_DELAY_SECONDS
    grown = FIRST_DELAY_SECONDS * 2.0 ** min(max(0, failures_in_a_row - 1), 16)
    return max(min(grown, longest), min(asked_seconds, LONGEST_ASKED_PAUSE_SECONDS))


class EngineWatch:
    """Owns the health of one engine and the task that waits for it to come back."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self.engine = engine
        self.health = Health(False, f"waiting for the engine at {engine.address}")
        self.changed = asyncio.Event()  # it came or went; the reader clears it
        self.losses = 0  # generations in a row that the engine began and did not finish
        self.last_loss = ""
        self._admission = admission
        self._failures = 0
        self._reopening: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Look once. A slow answer changes what people see, but not the gate: the engine may just be busy."""
        await self._look()
        if self.health.answers and self._reopening is None:
            self._admission.open()
        self.nudge()

    def failed(self, failure: EngineFailure) -> None:
        """A request was turned away: shut the gate and look again after a while."""
        self._failures += 1
        self._admission.shut(failure.reason)
        if self._reopening is None:
            delay = delay_seconds(self._failures, failure.remedy, failure.pause_seconds)
            self._reopening = asyncio.create_task(self._reopen(delay))

    def lost(self, reason: str) -> None:
        """A generation was begun and is lost."""
        self.losses += 1
        self.last_loss = reason

    def worked(self) -> None:
        """Text came: the engine is well."""
        self._failures = self.losses = 0

    def nudge(self) -> None:
        """Somebody waits: if the gate is shut, look often."""
        if self._admission.shut_because and self._admission.waiting and self._reopening is None:
            self._reopening = asyncio.create_task(self._reopen(0.0))

    async def replace(self, engine: Engine) -> None:
        """Another engine from now on; what runs in the old one begins again in the new one."""
        old, self.engine = self.engine, engine
        self._admission.begin_again("the engine settings were changed")
        await old.close()

    async def close(self) -> None:
        """Stop looking and let go of the engine."""
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait([self._reopening])
        await self.engine.close()

    async def _reopen(self, delay: float) -> None:
        try:
            looks = 0
            await asyncio.sleep(delay)
            while self._admission.waiting:
                await self._look()
                if self.health.answers:
                    self._admission.open()
                    return
                looks += 1
                await asyncio.sleep(delay_seconds(looks, Remedy.WAIT))
        finally:
            self._reopening = None

    async def _look(self) -> None:
        before, self.health = self.health, await self.engine.health()
        if before.ready is not self.health.ready:
            self.changed.set()
        if not self.health.answers and not self._admission.running:
            self._admission.shut("engine is starting")
