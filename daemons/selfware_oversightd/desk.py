"""What the operator does: register goals, answer questions, pause, resume, go back. Each is durable before it is said.

Never decides by policy and never starts a tool itself: effects.py does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from selfware_common.errors import RestoreUnderWayError
from selfware_common.paths import Paths
from selfware_common.sockets import Peer
from selfware_oversightd import approvals
from selfware_oversightd.canonical import require_id
from selfware_oversightd.config import forbidden_places, require_not_ourselves
from selfware_oversightd.effects import Effects
from selfware_oversightd.errors import GoalConflictError, InvalidRequestError, StoppingError
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.policy import Goal
from selfware_oversightd.records import Approval, Control, EffectRecord, Outcome, State
from selfware_tool.refusal import RefusalError
from selfware_tool.workspace import resolve_workspace

MAX_REASON_CHARS = 1000
CONTROL = ":control"  # what its watchers watch; no effect id has a colon


class Desk:
    """The operator's side of the ledger."""

    def __init__(self, ledger: Ledger, effects: Effects, where: Paths, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock` gives Unix nanoseconds."""
        self._ledger = ledger
        self._effects = effects
        self._where = where
        self._clock = clock

    def register_goal(self, goal_id: str, workspace: str, check: Sequence[str], commit: bool, peer: Peer) -> bool:
        """Let a task work in a directory; whether the goal is new. GoalConflictError if it was other before."""
        require_id("goal", goal_id)
        try:
            real = resolve_workspace(workspace, forbidden_places(self._where, workspace))
            require_not_ourselves(real)
        except (RefusalError, ValueError) as error:
            raise InvalidRequestError(problem=str(error)) from error
        goal = Goal(goal_id, real, tuple(check), commit, self._clock())
        known = self._ledger.goal(goal_id)
        if known is not None:
            _require_same(known, goal)
            return False
        with self._ledger.transaction():
            self._ledger.add_goal(goal)
            about = {"goal_id": goal_id, "workspace": real, "check": list(check), "commit": commit}
            self._ledger.note(goal.created_unix_nanos, "goal", **about, **_by(peer))
        return True

    def approve(self, wanted: str, digest: str | None, peer: Peer) -> Approval:
        """Say yes to exactly the action that was shown; it begins at once unless paused. RestoreUnderWayError."""
        self._require_no_restore("No question is answered")
        now = self._clock()
        with self._ledger.transaction() as connection:
            approval = approvals.approve(connection, approvals.find(connection, wanted), digest, now, peer)
            self._ledger.hold(approval.effect_id)
            self._note_answer(now, "approved", approval, peer)
        self._effects.watchers.tell(approval.effect_id)
        record = self._ledger.effect(approval.effect_id)
        assert record is not None
        self._effects.begin(record)
        return approvals.by_number(self._ledger.connection, approval.number) or approval

    def reject(self, wanted: str, reason: str, peer: Peer) -> Approval:
        """Say no: the action is refused for ever. RestoreUnderWayError: the question may be withdrawn any moment."""
        self._require_no_restore("No question is answered")
        now = self._clock()
        with self._ledger.transaction() as connection:
            approval = approvals.reject(
                connection, approvals.find(connection, wanted), reason[:MAX_REASON_CHARS], now, peer
            )
            record = self._ledger.effect(approval.effect_id)
            assert record is not None
            why = f": {approval.note}" if approval.note else ""
            self._note_answer(now, "rejected", approval, peer)
            outcome = Outcome(State.REFUSED, f"rejected by a person ({approval.approval_id}){why}")
            self._effects.end_in_transaction(record, outcome, now)
        self._effects.count_end(record.effect_id, State.REFUSED)
        return approval

    def pause(self, reason: str, peer: Peer) -> Control:
        """Begin nothing more; what runs runs on. During a restore: stay paused after it."""
        control = replace(self._ledger.control(), paused=True, reason=reason[:MAX_REASON_CHARS])
        return self._set_control(control, "paused", peer)

    def resume(self, peer: Peer, *, give_up_restore: bool = False) -> Control:
        """Begin what was held back. RestoreUnderWayError: files and knowledge may be of different moments; unless it is
        to be given up, whoever leads it."""
        if not give_up_restore:
            self._require_no_restore("Nothing goes on")
        control = self._set_control(Control(False, ""), "resumed", peer)
        self._effects.begin_held()
        return control

    def restore_begins(self, checkpoint_id: str, undone_by: str, peer: Peer) -> Control:
        """Nothing begins, and nothing is asked of the agent, until ``restore_ends``. What an earlier try of the same
        restore was undone by stays so: that was before any file was put back."""
        require_id("checkpoint", checkpoint_id)
        before = self._ledger.control()
        known = before.undone_by if before.restoring == checkpoint_id else ""
        control = replace(before, restoring=checkpoint_id, undone_by=known or undone_by)
        return self._set_control(control, "restore-begun", peer)

    def restore_ends(self, checkpoint_id: str, peer: Peer, *, given_up: bool, stay_paused: bool) -> Control:
        """It is done, or has changed nothing: what it held back begins, unless somebody paused. Another one that has
        begun meanwhile goes on."""
        before = self._ledger.control()
        if before.restoring != checkpoint_id:
            return before
        control = replace(before, restoring="", undone_by="")
        if stay_paused and not before.paused:
            control = replace(control, paused=True, reason=f"restored {checkpoint_id}")
        control = self._set_control(control, "restore-given-up" if given_up else "restore-ended", peer)
        self._effects.begin_held()
        return control

    async def watch_control(self) -> AsyncGenerator[Control, None]:
        """The pause flag now, and again on each change."""
        seen: Control | None = None
        async with aclosing(self._effects.watchers.turns(CONTROL)) as turns:
            async for _ in turns:
                if self._effects.watchers.stopping:
                    raise StoppingError
                control = self._ledger.control()
                if control != seen:
                    seen = control
                    yield control

    def question(self, wanted: str) -> tuple[Approval, EffectRecord]:
        """An approval by id or unique prefix, and what it is about."""
        return self._with_effect(approvals.find(self._ledger.connection, wanted))

    def questions(self, *, pending_only: bool, limit: int) -> list[tuple[Approval, EffectRecord]]:
        """What people are asked, oldest first; or what they were ever asked, newest first."""
        connection = self._ledger.connection
        found = approvals.pending(connection)[:limit] if pending_only else approvals.newest(connection, limit)
        return [self._with_effect(approval) for approval in found]

    def _set_control(self, control: Control, kind: str, peer: Peer) -> Control:
        if self._ledger.control() != control:
            with self._ledger.transaction():
                self._ledger.set_control(control)
                about = {"checkpoint_id": control.restoring} if control.restoring else {}
                self._ledger.note(self._clock(), kind, reason=control.reason, **about, **_by(peer))
            self._effects.watchers.tell(CONTROL)
        return control

    def _require_no_restore(self, what: str) -> None:
        if checkpoint_id := self._ledger.control().restoring:
            raise RestoreUnderWayError(what=what, checkpoint_id=checkpoint_id)

    def _note_answer(self, now: int, kind: str, approval: Approval, peer: Peer) -> None:
        about = {"approval_id": approval.approval_id, "effect_id": approval.effect_id, "digest": approval.digest}
        self._ledger.note(now, kind, **about, reason=approval.note, **_by(peer))

    def _with_effect(self, approval: Approval) -> tuple[Approval, EffectRecord]:
        record = self._ledger.effect(approval.effect_id)
        assert record is not None
        return approval, record


def _by(peer: Peer) -> dict[str, int]:
    return {"uid": peer.uid, "pid": peer.pid}


def _require_same(known: Goal, goal: Goal) -> None:
    for what in ("workspace", "check", "commit"):
        if getattr(known, what) != getattr(goal, what):
            raise GoalConflictError(goal_id=goal.goal_id, what=what)
