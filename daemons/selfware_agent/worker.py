"""Drives one task from step to step: plan, record, do, record. The only place where the pure parts meet the edges.

Order is everything: a question or an action is in the journal before it leaves this process, and its outcome is in the
journal before the next step is planned. Killed between any two lines, the next process does the same step again under
the same ids.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from selfware_agent import context, patience, plan, replies
from selfware_agent.hands import Hands, Waiting
from selfware_agent.memory import Memory
from selfware_agent.mind import Mind, Refusal, Stream
from selfware_agent.state import Phase, Task
from selfware_common import catalog, clients, log

LOG = logging.getLogger("selfware-agent")


@dataclass
class Live:
    """What is happening right now and is in no journal: for people only."""

    sentence: str = ""
    approval_id: str = ""
    stream_tokens: int = 0
    tokens_per_second: float = 0.0
    version: int = 0
    since: float = 0.0
    """When this was said, on the clock of the event loop."""
    patience_seconds: float = patience.UNLIMITED
    """How long nothing may change before the worker counts as wedged."""

    def wedged(self, now: float) -> bool:
        """Whether it has stood still for longer than what it does can take."""
        return now - self.since > self.patience_seconds


@dataclass
class Gate:
    """Whether work may go on (the operator's pause, memory pressure); and the slots that workers share."""

    slots: asyncio.Semaphore
    open: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    held: int = 0
    """How many need that no new step begins for a moment (see Foreman.quiet)."""
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Worker:
    """One task's driver."""

    def __init__(
        self,
        task_id: str,
        memory: Memory,
        mind: Mind,
        hands: Hands,
        gate: Gate,
        limits: plan.Limits,
        changed: Callable[[str, str], None],
    ) -> None:
        self.task_id = task_id
        self.live = Live()
        self._memory = memory
        self._mind = mind
        self._hands = hands
        self._gate = gate
        self._limits = limits
        self._action: Mapping[str, Any] = {}
        self._changed = changed
        self._holds_slot = False
        self.acting = False
        """An action may be changing files, or has and it is not recorded yet."""

    @property
    def task(self) -> Task:
        return self._memory.session.tasks[self.task_id]

    async def run(self) -> None:
        """Until the task has ended. Cancelling is safe at any point."""
        clients.new_trace()
        try:
            await self._take_slot()
            if not self.task.observed.started_unix_nanos:
                await self._record("TaskStarted")
            while (step := self._next_step()) is not None:
                await self._gate_open()
                await self._do(step)
        finally:
            self._release_slot()

    def _next_step(self) -> plan.Step | None:
        return plan.next_step(self.task, self._limits, time.time_ns(), self._memory.session.branch)

    async def _do(self, step: plan.Step) -> None:
        match step:
            case plan.Ask():
                await self._ask(step)
            case plan.Perform():
                await self._perform(step)
            case plan.FailAttempt():
                await self._record("AttemptFailed", why=step.why, final=step.final)
            case plan.End():
                await self._record("TaskEnded", phase=str(step.phase), verified=step.verified, sentence=step.sentence)
                what = catalog.TASK_SOLVED if step.phase is Phase.SOLVED else catalog.TASK_FAILED
                extra = log.event(what, task_id=self.task_id, session_id=self._memory.session_id)
                LOG.info("task %s ended: %s", self.task_id, step.sentence, extra=extra)

    async def _ask(self, step: plan.Ask) -> None:
        task, question = self.task, step.question
        messages = context.messages(task, self._limits.context_tokens - self._limits.max_reply_tokens)
        if step.new:
            await self._record(
                "ModelRequested",
                request_id=question.request_id,
                seed=question.seed,
                temperature=question.temperature,
            )
        answer = await self._mind.ask(
            self.task, question, messages, replies.schema(task.goal), self._limits.max_reply_tokens, self._streaming
        )
        if isinstance(answer, Refusal):
            await self._record("ModelFailed", request_id=question.request_id, why=answer.why)
            return
        await self._record(
            "ModelAnswered",
            request_id=question.request_id,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )

    async def _perform(self, step: plan.Perform) -> None:
        proposal, self.acting = step.proposal, True
        if step.new:
            await self._record(
                "ActionProposed", effect_id=proposal.effect_id, purpose=proposal.purpose, action=proposal.action
            )
        self._action = proposal.action
        outcome = await self._hands.perform(self.task, proposal, self._waiting)
        await self._take_slot()
        await self._record(
            "ActionFinished",
            effect_id=proposal.effect_id,
            state=outcome.state,
            ok=outcome.ok,
            sentence=outcome.sentence,
            output=outcome.output,
            whole=outcome.whole,
        )
        self.acting = False

    async def _record(self, kind: str, **payload: object) -> None:
        self._expect(patience.RECORD_SECONDS)
        await self._memory.record(kind, task_id=self.task_id, **payload)
        self._show(self.task.sentence)

    def _streaming(self, stream: Stream) -> None:
        self._show(stream.sentence, tokens=stream.tokens, rate=stream.tokens_per_second)
        self._expect(patience.for_model(stream.waits, self._limits.stall_timeout_seconds))

    def _waiting(self, waiting: Waiting) -> None:
        """A person may take days: give the slot to another task meanwhile."""
        if waiting.approval_id:
            self._release_slot()
        self.acting = not (waiting.approval_id or waiting.held)
        self._show(waiting.sentence, approval_id=waiting.approval_id)
        self._expect(patience.for_action(waiting.runs, self._action, self._limits.check_timeout_seconds))

    def _expect(self, seconds: float) -> None:
        """Something has just happened; the next thing happens within so many seconds, or this worker is wedged."""
        self.live.since, self.live.patience_seconds = asyncio.get_running_loop().time(), seconds

    def _show(self, sentence: str, *, approval_id: str = "", tokens: int = 0, rate: float = 0.0) -> None:
        live = self.live
        live.sentence, live.approval_id = sentence, approval_id
        live.stream_tokens, live.tokens_per_second = tokens, rate
        live.version += 1
        self._changed(self.task_id, sentence)

    async def _gate_open(self) -> None:
        while not self._gate.open.is_set() or self._gate.held:
            self._expect(patience.UNLIMITED)
            if self._gate.held:
                await self._gate.released.wait()
                continue
            self._show(self._gate.reason)
            await self._gate.open.wait()

    async def _take_slot(self) -> None:
        if not self._holds_slot:
            self._expect(patience.UNLIMITED)
            await self._gate.slots.acquire()
            self._holds_slot = True

    def _release_slot(self) -> None:
        if self._holds_slot:
            self._holds_slot = False
            with suppress(ValueError):
                self._gate.slots.release()
