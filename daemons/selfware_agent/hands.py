"""Proposes actions to oversightd and waits for their outcome, whatever restarts in between.

The effect id was recorded in the journal before we get here, so asking again after any failure is safe: oversightd
runs an effect once and answers every repeat with the same outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import grpc.aio

from selfware_agent.errors import CheckpointRefusedError, NotQuietError, OversightAwayError
from selfware_agent.redaction import Redactor
from selfware_agent.shorten import shorten
from selfware_agent.state import Proposal, Task
from selfware_common.rpc import oversight_pb2, oversight_pb2_grpc

MAX_OUTPUT_CHARS = 24_000
CAPTURE_SECONDS = 600.0
ASK_SECONDS = 5.0
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_TERMINAL = {
    oversight_pb2.EFFECT_STATE_DONE: "done",
    oversight_pb2.EFFECT_STATE_REFUSED: "refused",
    oversight_pb2.EFFECT_STATE_UNKNOWN: "unknown",
}


@dataclass(frozen=True)
class Outcome:
    """How an action ended; `state` is done, refused or unknown."""

    state: str
    ok: bool
    sentence: str
    output: str
    whole: bool = False  # nothing of the output was left out


@dataclass(frozen=True)
class Waiting:
    """The action has not ended; `approval_id` is set when a person must decide."""

    sentence: str
    approval_id: str = ""
    runs: bool = False
    held: bool = False
    """It has not begun, and begins when oversightd lets it (a pause, a workspace that is being saved)."""


class Hands:
    """A client of selfware-oversightd."""

    def __init__(self, channel: grpc.aio.Channel, redactor: Redactor) -> None:
        self.redactor = redactor
        self._stub = oversight_pb2_grpc.OversightStub(channel)
        self.session_id = ""  # set once the session is known

    async def capture(
        self, epoch: int, checkpoint_id: str, workspaces: list[str], open_effects: list[str], label: str
    ) -> oversight_pb2.CaptureReply:
        """A system checkpoint: these directories with the state of that checkpoint. Raises NotQuietError,
        CheckpointRefusedError."""
        request = oversight_pb2.CaptureRequest(
            session_id=self.session_id,
            epoch=epoch,
            checkpoint_id=checkpoint_id,
            workspaces=workspaces,
            open_effects=open_effects,
            label=label,
        )
        try:
            return await self._stub.Capture(request, timeout=CAPTURE_SECONDS)
        except grpc.aio.AioRpcError as error:
            why = (error.details() or str(error.code())).rstrip(".")
            if error.code() is grpc.StatusCode.ABORTED:
                raise NotQuietError(reason=why) from error
            raise CheckpointRefusedError(checkpoint_id=f"{checkpoint_id} with its files", reason=f"{why}.") from error

    async def real_workspace(self, task_id: str, workspace: str) -> str:
        """The path by which oversightd knows a goal's workspace, which may have been given as a link; the same path if
        it knows none. Raises OversightAwayError."""
        request = oversight_pb2.FindWorkspaceRequest(task_id=task_id, workspace=workspace)
        try:
            return (await self._stub.FindWorkspace(request, timeout=ASK_SECONDS)).workspace
        except grpc.aio.AioRpcError as error:
            raise OversightAwayError(what="where the goal works") from error

    async def perform(self, task: Task, proposal: Proposal, on_waiting: Callable[[Waiting], None]) -> Outcome:
        """Wait for the outcome, for ever if need be; cancelling stops the wait, not the action."""
        request = oversight_pb2.PerformRequest(
            effect_id=proposal.effect_id,
            action=to_action(proposal),
            workspace=task.goal.workspace,
            session_id=self.session_id,
            task_id=task.task_id,
            reason=f"{proposal.purpose}: {task.sentence}",
        )
        delay_seconds = 0.05
        while True:
            try:
                async for update in self._stub.Perform(request):
                    if update.state in _TERMINAL:
                        return _outcome(update, self.redactor)
                    delay_seconds = 0.05
                    runs = update.state == oversight_pb2.EFFECT_STATE_RUNNING
                    held = update.state == oversight_pb2.EFFECT_STATE_WAITING and not update.approval_id
                    on_waiting(Waiting(update.sentence, update.approval_id, runs, held))
            except grpc.aio.AioRpcError as error:
                if error.code() in REFUSALS:
                    return Outcome("refused", False, error.details() or str(error.code()), "")
                on_waiting(Waiting(f"waiting for oversightd: {error.details()}"))
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(1.0, delay_seconds * 2)


def to_action(proposal: Proposal) -> oversight_pb2.Action:
    """The journal's plain action as the wire's typed one."""
    fields = dict(proposal.action)
    tool = fields.pop("tool")
    return oversight_pb2.Action(**{tool: _KINDS[tool](**fields)})


def _outcome(update: oversight_pb2.PerformUpdate, redactor: Redactor) -> Outcome:
    result = update.result
    output, secrets = redactor.clean(result.output)
    done = update.state == oversight_pb2.EFFECT_STATE_DONE
    return Outcome(
        state=_TERMINAL[update.state],
        ok=done and result.ok,
        sentence=(result.sentence if done else "") or update.sentence,
        output=shorten(output, MAX_OUTPUT_CHARS),
        whole=not secrets and _is_whole(result),
    )


def _is_whole(result: oversight_pb2.Result) -> bool:
    """Whether these are all the bytes there were: what is no UTF-8 comes as replacement characters, by chance just as
    long."""
    text = result.output
    return len(text) <= MAX_OUTPUT_CHARS and "\ufffd" not in text and len(text.encode()) == result.output_bytes


_KINDS = {
    "run_command": oversight_pb2.RunCommand,
    "run_code": oversight_pb2.RunCode,
    "read_file": oversight_pb2.ReadFile,
    "write_file": oversight_pb2.WriteFile,
    "edit_file": oversight_pb2.EditFile,
    "search": oversight_pb2.Search,
    "finish": oversight_pb2.Finish,
}
