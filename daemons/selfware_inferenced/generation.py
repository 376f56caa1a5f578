"""One request from its arrival to its last token: wait, generate, begin again when the engine was lost.

The caller sees typed events. An engine that is absent means waiting; an engine that was lost in the middle means
Restarted and a new beginning, with the same seed; only a refusal, the deadline, or an engine that keeps failing is an
error. Every wait has one alarm, so a deadline, a stall, a preemption and a stop all end it in the same way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from selfware_inferenced.admission import Admission, Interrupt, Ticket
from selfware_inferenced.engines import Accepted, End, Piece, Prefilled, Prompt, Text
from selfware_inferenced.engines.failures import EngineFailure, Remedy, lost
from selfware_inferenced.errors import DeadlineError, EngineKeepsFailingError, StoppingError
from selfware_inferenced.watch import EngineWatch, delay_seconds

T = TypeVar("T")


@dataclass(frozen=True)
class Queued:
    """It waits; position 0 is next."""

    position: int
    reason: str


@dataclass(frozen=True)
class Started:
    """The engine took it."""

    model: str
    engine: str
    queued_seconds: float


@dataclass(frozen=True)
class Restarted:
    """The text so far is void."""

    reason: str


@dataclass(frozen=True)
class Finished:
    """The reply is complete."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    restarts: int

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds > 0 else 0.0


Event = Queued | Started | Text | Restarted | Finished


class _BeginAgainError(Exception):
    """Somebody more important needs the slot, or the engine is another one now."""


class Generation:
    """The life of one request; `events()` runs it."""

    def __init__(
        self, prompt: Prompt, ticket: Ticket, deadline_seconds: float, admission: Admission, watch: EngineWatch
    ) -> None:
        self._prompt = prompt
        self._ticket = ticket
        self._admission = admission
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._deadline_seconds = deadline_seconds
        self._arrived = self._loop.time()
        self._deadline = self._arrived + deadline_seconds if deadline_seconds else math.inf
        self._losses = 0
        self._restarts = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Queued…, Started, Text…, Finished; after a Restarted from the beginning. Raises SelfwareErrors."""
        try:
            self._admission.enter(self._ticket)
            while True:
                async with aclosing(self._turn()) as turn:
                    async for event in turn:
                        yield event
                        if isinstance(event, Finished):
                            return
                self._admission.enter(self._ticket)
        finally:
            self._admission.leave(self._ticket)

    async def _turn(self) -> AsyncGenerator[Event, None]:
        """Wait for a slot and use it once; ends without Finished when the request has to queue again."""
        try:
            async for queued in self._wait_for_slot():
                yield queued
            async with aclosing(self._use_slot()) as slot:
                async for event in slot:
                    yield event
        except _BeginAgainError as error:
            self._restarts += 1
            self._admission.leave(self._ticket)
            yield Restarted(str(error))
        except EngineFailure as failure:
            if failure.remedy is not Remedy.REPEAT:
                self._watch.failed(failure)
                self._admission.leave(self._ticket)
                return
            self._admission.leave(self._ticket)
            yield self._after_loss(failure)
            await self._under_alarm(self._ticket.changed.wait(), delay_seconds(self._losses, Remedy.REPEAT), None)

    def _after_loss(self, failure: EngineFailure) -> Restarted:
        self._losses += 1
        self._restarts += 1
        self._watch.lost(failure.reason)
        if self._losses > self._admission.limits.max_losses:
            raise EngineKeepsFailingError(
                engine=self._watch.engine.address,
                times=self._losses,
                request_id=self._ticket.request_id,
                reason=failure.reason,
            )
        self._ticket.changed.clear()
        return Restarted(failure.reason)

    async def _wait_for_slot(self) -> AsyncGenerator[Queued, None]:
        told: Queued | None = None
        while not self._ticket.running:
            self._watch.nudge()
            now = Queued(self._ticket.position, self._admission.shut_because or "all slots are busy")
            if now != told:
                told = now
                yield now
                continue  # much may have changed while the caller took it
            await self._under_alarm(self._ticket.changed.wait(), math.inf, None)
            self._ticket.changed.clear()

    async def _use_slot(self) -> AsyncGenerator[Event, None]:
        began = self._loop.time()
        queued_seconds, tokens = began - self._arrived, 0
        async with aclosing(self._watch.engine.generate(self._prompt)) as pieces:
            stall = self._admission.limits.stall_timeout_seconds
            stalled_at = began + stall
            while True:
                piece = await self._next(pieces, stalled_at, stall)
                if isinstance(piece, Text):
                    tokens += piece.tokens
                    self._ticket.tokens = tokens
                    self._watch.worked()
                    if piece.text:
                        yield piece
                elif isinstance(piece, Accepted):
                    yield Started(self._prompt.model, self._watch.engine.address, queued_seconds)
                elif isinstance(piece, End):
                    yield self._finished(piece, tokens, began)
                    return
                if isinstance(piece, Text | Prefilled):
                    stalled_at = self._loop.time() + stall

    async def _next(self, pieces: AsyncGenerator[Piece, None], stalled_at: float, stall: float) -> Piece:
        silence = f"the engine produced no token for {stall:g} s"
        return await self._under_alarm(anext(pieces), stalled_at - self._loop.time(), silence)

    async def _under_alarm(self, waiting: Awaitable[T], seconds: float, silence: str | None) -> T:
        """`waiting`, but no longer than `seconds` or the deadline, and only until interrupted. When only the time is
        up: a loss because of `silence`, or (None) no failure at all."""
        ticket = self._ticket
        when = min(self._loop.time() + seconds, self._deadline)
        try:
            async with asyncio.timeout_at(None if math.isinf(when) else when) as ticket.alarm:
                if ticket.interruption is not None:
                    ticket.alarm.reschedule(self._loop.time())
                return await waiting
        except TimeoutError:
            self._raise_interruption()
            if when == self._deadline:
                raise self._deadline_error() from None
            if silence is not None:
                raise lost(silence) from None
            return None  # type: ignore[return-value]
        finally:
            ticket.alarm = None

    def _raise_interruption(self) -> None:
        why = self._ticket.interruption
        if why is None:
            return
        if why.kind is Interrupt.STOPPING:
            raise StoppingError(request_id=self._ticket.request_id) from None
        raise _BeginAgainError(why.reason) from None

    def _deadline_error(self) -> DeadlineError:
        if self._ticket.running:
            state = f"it had {self._ticket.tokens} tokens"
        elif self._admission.shut_because:
            state = f"it was still waiting, because the {self._admission.shut_because}"
        else:
            state = f"it was still waiting, with {max(0, self._ticket.position)} requests before it"
        return DeadlineError(request_id=self._ticket.request_id, seconds=self._deadline_seconds, state=state)

    def _finished(self, end: End, counted: int, began: float) -> Finished:
        return Finished(
            finish_reason=end.finish_reason,
            prompt_tokens=end.prompt_tokens or 0,
            completion_tokens=counted if end.completion_tokens is None else end.completion_tokens,
            seconds=self._loop.time() - began,
            restarts=self._restarts,
        )
