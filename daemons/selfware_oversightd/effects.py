"""The exactly-once state machine: from a proposal to its one outcome, across any number of our deaths.

    proposed -> waiting (for a person) -> held -> intent -> done | unknown
             -> held (allowed) ----------^                 refused, from any state before intent

Each arrow is one durable transaction with its audit row, made before anything follows from it. From `intent` on the
effect directory knows best: the effect is run, found running, or found ended, whichever it is. Callers only watch:
hanging up cancels nothing, and asking again changes nothing.

Owns the tasks that wait for tools. Never decides what is allowed (policy) and never answers a question (desk).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from selfware_common.errors import SelfwareError
from selfware_oversightd import approvals
from selfware_oversightd.canonical import Proposal
from selfware_oversightd.config import Asking
from selfware_oversightd.errors import StoppingError
from selfware_oversightd.holding import Holds
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.policy import Decision, Verdict
from selfware_oversightd.records import ENDED, Answer, EffectRecord, Outcome, State
from selfware_oversightd.telling import about, about_end, log_end, log_question, new_record
from selfware_oversightd.tools import Tools
from selfware_oversightd.watchers import Watchers
from selfware_tool.errors import EffectChangedError

RETRY_SECONDS = 2.0  # after a full disk or a runner that could not be started
FORGET_EVERY = 500


class Effects:
    """All effects of this installation."""

    def __init__(self, ledger: Ledger, tools: Tools, asking: Asking, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock` gives Unix nanoseconds."""
        self.asking = asking
        self.watchers = Watchers()
        self.holds = Holds()
        self.holds.released = self.begin_held
        self.running: dict[str, EffectRecord] = {}
        self.trouble: dict[str, SelfwareError] = {}
        self.ended = {state: ledger.ended_count(state) for state in ENDED}
        self.defect: BaseException | None = None  # a task of ours failed in a way nobody foresaw
        self._ledger = ledger
        self._tools = tools
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._since_forgetting = 0

    # What the agent does.

    def propose(self, proposal: Proposal, real_workspace: str, judge: Callable[[], Decision]) -> None:
        """Record a new proposal and what follows from policy; take up an old one. Other bytes: EffectChangedError."""
        record = self._ledger.effect(proposal.effect_id)
        if record is None:
            self._decide(proposal, real_workspace, judge())
        elif record.digest != proposal.digest:
            raise EffectChangedError(effect_id=proposal.effect_id)
        else:
            self._take_up(record)

    async def follow(self, effect_id: str) -> AsyncGenerator[EffectRecord, None]:
        """The effect now, and again on each change of its state, until it ended. Raises what holds it up."""
        seen: tuple[State, int] | None = None
        async with aclosing(self.watchers.turns(effect_id)) as turns:
            async for _ in turns:
                if self.watchers.stopping:
                    raise StoppingError
                if (error := self.trouble.get(effect_id)) is not None:
                    raise error
                record = self._ledger.effect(effect_id)
                assert record is not None
                if (record.state, record.approval) != seen:
                    seen = (record.state, record.approval)
                    yield record
                if record.state in ENDED:
                    return

    # What time, a restart and the operator bring about.

    def recover(self) -> None:
        """After a start: clear what is finished, find what was begun, begin what was allowed."""
        for effect_id in self._tools.left_over():
            record = self._ledger.effect(effect_id)
            if record is not None and record.state in ENDED:
                self._tools.remove(effect_id)
        for record in self._ledger.not_ended():
            if record.state is State.INTENT:
                self._drive(record)
        self.begin_held()

    def begin_held(self) -> None:
        """Begin everything that may: nothing while paused, nothing where a workspace stands still. What fails is tried
        again later."""
        for record in self._ledger.not_ended():
            if record.state is State.HELD:
                self.begin(record)

    def begin(self, record: EffectRecord) -> None:
        """Make the intent durable, using up the approval, and start the tool; unless paused or held. Never raises a
        SelfwareError: trouble is kept, shown to who watches, and tried again."""
        try:
            if self._may_begin(record):
                self._intend(record)
        except SelfwareError as error:
            self._keep_trouble(record.effect_id, error)

    def turn(self) -> None:
        """Once per cycle: expire questions, try again what was in trouble, forget old texts."""
        for approval in approvals.expired(self._ledger.connection, self._clock()):
            self._expire(approval.number, approval.effect_id)
        now = time.monotonic()
        for effect_id in [name for name, due in self._retry_at.items() if due <= now]:
            record = self._ledger.effect(effect_id)
            if record is not None:
                self._take_up(record)
        if self._since_forgetting >= FORGET_EVERY:
            self._ledger.forget_old()
            self._since_forgetting = 0

    def next_retry_seconds(self) -> float | None:
        """When `turn` has to try something again."""
        return max(0.0, min(self._retry_at.values()) - time.monotonic()) if self._retry_at else None

    async def close(self) -> None:
        """Let go of the waiting tasks; the tools do not notice."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def end_in_transaction(self, record: EffectRecord, outcome: Outcome, now: int) -> None:
        """The end and its audit row; `count_end` follows once it is durable."""
        self._ledger.end(record.effect_id, outcome, now)
        self._ledger.note(now, "ended", **about_end(record, outcome))

    def count_end(self, effect_id: str, state: State) -> None:
        """It ended: count it, clear up, tell everybody."""
        self.ended[state] += 1
        self._since_forgetting += 1
        self.trouble.pop(effect_id, None)
        self._retry_at.pop(effect_id, None)
        self.watchers.tell(effect_id)
        if (record := self._ledger.effect(effect_id)) is not None:
            log_end(record)

    # Helpers, in call order.

    def _decide(self, proposal: Proposal, real_workspace: str, decision: Decision) -> None:
        now = self._clock()
        record = new_record(proposal, real_workspace, decision.rule, now)
        verdict, outcome = decision.verdict, None
        if verdict is Verdict.FORBID:
            outcome = Outcome(State.REFUSED, f"refused: {decision.rule}")
        elif proposal.kind == "finish":
            outcome = Outcome(State.DONE, "finished; nothing was run", ok=True)
        elif proposal.action is not None and (problem := self._tools.problem(record)):
            outcome = Outcome(State.REFUSED, f"refused: {problem}")
        elif verdict is Verdict.ALLOW:
            self._tools.require_room(record.effect_id)
        with self._ledger.transaction():
            if outcome is None and verdict is Verdict.ASK:
                record = self._ask(record, now)
            self._ledger.add_effect(record)
            self._ledger.note(now, "proposed", verdict=verdict.value, **about(record))
            begins = outcome is None and verdict is Verdict.ALLOW and self._may_begin(record)
            if begins and self._tools.sandbox.available:
                self._ledger.intend(record.effect_id, now)
                record = replace(record, state=State.INTENT, intent_unix_nanos=now)
            if outcome is not None:
                self.end_in_transaction(record, outcome, now)
        if outcome is not None:
            self.count_end(record.effect_id, outcome.state)
        elif record.state is State.INTENT:
            self._drive(record)
        elif record.state is State.HELD:
            self.begin(record)
        self.watchers.tell(record.effect_id)

    def _ask(self, record: EffectRecord, now: int) -> EffectRecord:
        question = approvals.ask(
            self._ledger.connection, record.effect_id, record.digest, now, self.asking.timeout_seconds
        )
        self._ledger.note(now, "asked", approval_id=question.approval_id, effect_id=record.effect_id)
        log_question(record, question.approval_id)
        return replace(record, state=State.WAITING, approval=question.number)

    def _take_up(self, record: EffectRecord) -> None:
        """Somebody asks again, or it is time to try again."""
        self.trouble.pop(record.effect_id, None)
        self._retry_at.pop(record.effect_id, None)
        if record.state is State.INTENT:
            self._drive(record)
        elif record.state is State.HELD:
            self.begin(record)
        elif record.state is State.WAITING:
            asked = approvals.by_number(self._ledger.connection, record.approval)
            if asked is not None and asked.state is Answer.EXPIRED:
                self._ask_again(record)

    def _ask_again(self, record: EffectRecord) -> None:
        now = self._clock()
        with self._ledger.transaction():
            self._ledger.ask(record.effect_id, self._ask(record, now).approval)
        self.watchers.tell(record.effect_id)

    def _may_begin(self, record: EffectRecord) -> bool:
        return not self._ledger.control().still and not self.holds.covers(record.workspace)

    def _intend(self, record: EffectRecord) -> None:
        self._tools.require_sandbox()
        self._tools.require_room(record.effect_id)
        now = self._clock()
        refusal = self._tools.problem(record)
        with self._ledger.transaction() as connection:
            approved = not record.approval or approvals.use(
                connection, record.approval, record.effect_id, record.digest
            )
            if not approved:
                refusal = "its approval is used up or is for another action"
            if refusal:
                self.end_in_transaction(record, Outcome(State.REFUSED, f"refused: {refusal}"), now)
            else:
                self._ledger.intend(record.effect_id, now)
                self._ledger.note(now, "began", effect_id=record.effect_id, digest=record.digest)
        if refusal:
            self.count_end(record.effect_id, State.REFUSED)
            return
        self._drive(replace(record, state=State.INTENT, intent_unix_nanos=now))
        self.watchers.tell(record.effect_id)

    def _drive(self, record: EffectRecord) -> None:
        """Have a task that sees the effect to its end; one per effect."""
        if record.effect_id in self._tasks or self.watchers.stopping:
            return
        self.running[record.effect_id] = record
        task = asyncio.get_running_loop().create_task(self._see_to_its_end(record), name=record.effect_id)
        self._tasks[record.effect_id] = task
        task.add_done_callback(lambda done: self._let_go(record.effect_id, done))

    async def _see_to_its_end(self, record: EffectRecord) -> None:
        try:
            outcome = await self._tools.run(record)
            now = self._clock()
            with self._ledger.transaction():
                self.end_in_transaction(record, outcome, now)
        except SelfwareError as error:
            self._keep_trouble(record.effect_id, error)
            return
        self.running.pop(record.effect_id, None)
        self.count_end(record.effect_id, outcome.state)
        await asyncio.to_thread(self._tools.remove, record.effect_id)  # slow on a busy disk; the answer goes first

    def _let_go(self, effect_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(effect_id, None)
        self.running.pop(effect_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.defect = error
        self.watchers.changed.set()

    def _keep_trouble(self, effect_id: str, error: SelfwareError) -> None:
        self.trouble[effect_id] = error
        self._retry_at[effect_id] = time.monotonic() + RETRY_SECONDS
        self.watchers.tell(effect_id)

    def _expire(self, number: int, effect_id: str) -> None:
        """Silence is a no, or the question is put again to whoever still waits for the answer."""
        now = self._clock()
        record = self._ledger.effect(effect_id)
        asked = approvals.by_number(self._ledger.connection, number)
        assert record is not None
        assert asked is not None
        waited_seconds = (asked.expires_unix_nanos - asked.created_unix_nanos) / 1e9
        outcome = Outcome(State.REFUSED, f"refused: nobody answered {asked.approval_id} within {waited_seconds:g} s")
        with self._ledger.transaction() as connection:
            approvals.expire(connection, asked, now)
            self._ledger.note(now, "expired", approval_id=asked.approval_id, effect_id=effect_id)
            if self.asking.reject_on_timeout:
                self.end_in_transaction(record, outcome, now)
            elif self.watchers.count(effect_id):
                self._ledger.ask(effect_id, self._ask(record, now).approval)
        if self.asking.reject_on_timeout:
            self.count_end(effect_id, State.REFUSED)
        self.watchers.tell(effect_id)
