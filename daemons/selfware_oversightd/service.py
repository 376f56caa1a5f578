"""gRPC in, effects out: the agent's socket. Nothing here can approve, pause or change a policy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from selfware_common.rpc import oversight_pb2, oversight_pb2_grpc
from selfware_oversightd.canonical import Proposal, read_proposal
from selfware_oversightd.captures import Captures, Wish
from selfware_oversightd.desk import Desk
from selfware_oversightd.effects import Effects
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.policy import Decision, Rules, decide
from selfware_oversightd.records import Control, EffectRecord, State

SERVICE_NAME = "selfware.oversight.v1.Oversight"

_STATES = {
    State.WAITING: oversight_pb2.EFFECT_STATE_WAITING,
    State.HELD: oversight_pb2.EFFECT_STATE_WAITING,
    State.INTENT: oversight_pb2.EFFECT_STATE_RUNNING,
    State.DONE: oversight_pb2.EFFECT_STATE_DONE,
    State.REFUSED: oversight_pb2.EFFECT_STATE_REFUSED,
    State.UNKNOWN: oversight_pb2.EFFECT_STATE_UNKNOWN,
}


class OversightService(oversight_pb2_grpc.OversightServicer):
    """selfware.oversight.v1.Oversight."""

    def __init__(
        self, ledger: Ledger, effects: Effects, desk: Desk, captures: Captures, rules: Callable[[], Rules]
    ) -> None:
        """`rules` gives the operator's lists as they are now."""
        self._ledger = ledger
        self._effects = effects
        self._desk = desk
        self._captures = captures
        self._rules = rules

    async def Perform(
        self, request: oversight_pb2.PerformRequest, context: Any
    ) -> AsyncIterator[oversight_pb2.PerformUpdate]:
        proposal = read_proposal(request)
        real = _real_path(proposal.workspace)
        self._effects.propose(proposal, real, lambda: self._judge(proposal, real))
        async with aclosing(self._effects.follow(proposal.effect_id)) as records:
            async for record in records:
                yield update_of(record, self._ledger.control())

    async def WatchControl(
        self, request: oversight_pb2.WatchControlRequest, context: Any
    ) -> AsyncIterator[oversight_pb2.Control]:
        async with aclosing(self._desk.watch_control()) as controls:
            async for control in controls:
                yield oversight_pb2.Control(paused=control.still, reason=control.why, restoring=control.restoring)

    async def Capture(self, request: oversight_pb2.CaptureRequest, context: Any) -> oversight_pb2.CaptureReply:
        wish = Wish(
            session_id=request.session_id,
            epoch=request.epoch,
            checkpoint_id=request.checkpoint_id,
            workspaces=tuple(request.workspaces),
            open_effects=tuple(request.open_effects),
            label=request.label,
        )
        captured = await self._captures.capture(wish)
        saved = captured.checkpoint
        return oversight_pb2.CaptureReply(
            checkpoint_id=saved.checkpoint_id,
            state_bytes=saved.state_bytes,
            stored_bytes=saved.stored_bytes,
            notes=captured.notes,
        )

    async def FindWorkspace(
        self, request: oversight_pb2.FindWorkspaceRequest, context: Any
    ) -> oversight_pb2.FindWorkspaceReply:
        goal, real = self._ledger.goal(request.task_id), _real_path(request.workspace)
        known = goal is not None and goal.workspace == real
        return oversight_pb2.FindWorkspaceReply(workspace=real if known else request.workspace)

    def _judge(self, proposal: Proposal, real_workspace: str) -> Decision:
        return decide(proposal, real_workspace, self._ledger.goal(proposal.task_id), self._rules())


def update_of(record: EffectRecord, control: Control) -> oversight_pb2.PerformUpdate:
    """The effect as the agent sees it."""
    update = oversight_pb2.PerformUpdate(
        effect_id=record.effect_id, state=_STATES[record.state], sentence=sentence_of(record, control)
    )
    if record.state is State.WAITING:
        update.approval_id = f"appr-{record.approval}"
    if record.state is State.DONE:
        update.result.CopyFrom(
            oversight_pb2.Result(
                ok=bool(record.ok),
                exit_status=record.exit_status,
                timed_out=bool(record.timed_out),
                sentence=record.sentence,
                output=record.output,
                output_bytes=record.output_bytes,
                seconds=record.seconds,
            )
        )
    return update


def sentence_of(record: EffectRecord, control: Control) -> str:
    """What is happening to the effect, in words."""
    match record.state:
        case State.WAITING:
            return f"waiting for approval appr-{record.approval}: {record.summary}"
        case State.HELD:
            what = (
                "a restore" if control.restoring else "paused by the operator" if control.paused else "about to begin"
            )
            return f"waiting: {what}: {record.summary}"
        case State.INTENT:
            return f"running: {record.summary}"
    return record.sentence


def _real_path(path: str) -> str:
    try:
        return os.path.realpath(path) if path.startswith("/") else ""
    except ValueError:  # a NUL in it
        return ""
