"""`tasks`: the goals given so far, and what happened in each, read from the journal itself."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from selfware_common.errors import UnreachableError
from selfwarectl import approvals, live, output, reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selfware_common.rpc import agent_pb2, agent_pb2_grpc, checkpoint_pb2

TELLING_KEYS = ("sentence", "why", "reason", "text", "summary", "output")
MAX_LINE_CHARS = 300


@click.group()
def tasks() -> None:
    """See and steer the goals given so far."""


@tasks.command("ls")
@output.json_option
def ls() -> None:
    """List all tasks, oldest first.

    \b
    Examples:
      selfwarectl tasks ls
      selfwarectl tasks ls --json | jq -r '.tasks[] | select(.state == "failed") | .task_id'
    """
    reply = _list()
    if output.wants_json():
        output.emit(output.plain(reply))
        return
    rows = [
        (one.task_id, live.state_of(one), one.attempt, one.steps, _tokens(one), _age(one), one.sentence or one.goal)
        for one in reply.tasks
    ]
    output.table(("ID", "STATE", "TRY", "STEPS", "TOKENS", "AGE", "DOING"), rows, empty="no goal was given yet")


@tasks.command("show")
@click.argument("task_id", metavar="ID")
@output.json_option
def show(task_id: str) -> None:
    """Show everything about one task.

    \b
    Examples:
      selfwarectl tasks show task-260101-3f
    """
    from selfware_common.rpc import agent_pb2

    with _agent() as stub:
        one = stub.GetTask(agent_pb2.GetTaskRequest(task_id=task_id), timeout=reach.SECONDS)
    _show(one)


@tasks.command("cancel")
@click.argument("task_id", metavar="ID")
@click.option("-r", "--reason", default="", help="Kept with the task.")
@output.json_option
def cancel(task_id: str, reason: str) -> None:
    """Stop working on a task, and withdraw what it asks you. What runs already runs on.

    \b
    Examples:
      selfwarectl tasks cancel task-260101-3f -r "wrong branch"
    """
    from selfware_common.rpc import agent_pb2

    with _agent() as stub:
        one = stub.CancelTask(agent_pb2.CancelTaskRequest(task_id=task_id, reason=reason), timeout=reach.SECONDS)
    _changed(one)
    for question in approvals.fetch("pending"):
        if question.get("task_id") == one.task_id:
            approvals.withdraw(question, "its task was cancelled")


@tasks.command("retry")
@click.argument("task_id", metavar="ID")
@output.json_option
def retry(task_id: str) -> None:
    """Begin an ended task again, with a fresh budget.

    \b
    Examples:
      selfwarectl tasks retry task-260101-3f
    """
    from selfware_common.rpc import agent_pb2

    with _agent() as stub:
        one = stub.RetryTask(agent_pb2.RetryTaskRequest(task_id=task_id), timeout=reach.SECONDS)
    _changed(one)


@tasks.command("logs")
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@output.json_option
def logs(task_id: str, follow: bool) -> None:
    """Show what happened in a task: its events in the journal. With --json one event a line.

    \b
    Examples:
      selfwarectl tasks logs task-260101-3f
      selfwarectl tasks logs -f task-260101-3f
    """
    wanted, session = _whose(task_id)
    for event in _events(session, follow):
        payload = _payload(event)
        if payload.get("task_id") == wanted:
            _event(event, payload)


def newest_session() -> str:
    """The session that an agent worked on last, else the one opened last; '' when there is none."""
    from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc

    with reach.calling("checkpointd") as channel:
        stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        reply = stub.ListSessions(checkpoint_pb2.ListSessionsRequest(), timeout=reach.SECONDS)
    agents = [one for one in reply.sessions if one.writer_id.startswith("selfware-agent")]
    sessions = sorted(agents or reply.sessions, key=lambda one: one.opened_unix_nanos)
    return sessions[-1].session_id if sessions else ""


@contextmanager
def _agent() -> Iterator[agent_pb2_grpc.AgentStub]:
    from selfware_common.rpc import agent_pb2_grpc

    with reach.calling("agent") as channel:
        yield agent_pb2_grpc.AgentStub(channel)


def _list() -> agent_pb2.ListTasksReply:
    from selfware_common.rpc import agent_pb2

    with _agent() as stub:
        return stub.ListTasks(agent_pb2.ListTasksRequest(), timeout=reach.SECONDS)


def _whose(wanted: str) -> tuple[str, str]:
    """Full id and session of a task; from the journal alone when the agent is away."""
    try:
        reply = _list()
        session, known = reply.session_id, [one.task_id for one in reply.tasks]
    except UnreachableError:
        session = newest_session()
        known = list(dict.fromkeys(str(_payload(one).get("task_id", "")) for one in _events(session, follow=False)))
    return reach.find(wanted, known, "task", "selfwarectl tasks ls"), session


def _events(session: str, follow: bool) -> Iterator[checkpoint_pb2.Event]:
    from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc

    with reach.calling("checkpointd") as channel:
        stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        yield from stub.ReadEvents(checkpoint_pb2.ReadEventsRequest(session_id=session, follow=follow))


def _payload(event: checkpoint_pb2.Event) -> dict[str, Any]:
    try:
        value = json.loads(event.payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _event(event: checkpoint_pb2.Event, payload: dict[str, Any]) -> None:
    if output.wants_json():
        output.emit({**output.plain(event), "payload": payload})
        return
    line = " ".join(telling(payload).split())
    line = line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}…"
    output.say(f"{output.local_time(event.time_unix_nanos)}  {event.kind:<15} {line}".rstrip())


def telling(payload: dict[str, Any]) -> str:
    """The part of an event that a person wants on one line; '' if it says nothing."""
    if isinstance(goal := payload.get("goal"), dict):
        return str(goal.get("text", ""))
    if isinstance(action := payload.get("action"), dict):
        what = action.get("argv") or action.get("script") or action.get("path") or action.get("url") or ""
        words = shlex.join(str(word) for word in what) if isinstance(what, list) else str(what)
        return f"{payload.get('purpose', '')}: {action.get('tool', '')} {words}"
    if "seed" in payload and "temperature" in payload:
        return f"seed {payload['seed']}, temperature {payload['temperature']}"
    return next((str(payload[key]) for key in TELLING_KEYS if payload.get(key)), "")


def _show(one: agent_pb2.Task) -> None:
    if output.wants_json():
        output.emit(output.plain(one))
        return
    verified = "the check passed" if one.verified else "not proved by a check"
    output.pairs(
        {
            "id": one.task_id,
            "state": f"{live.state_of(one)} ({verified})" if live.state_of(one) == "solved" else live.state_of(one),
            "doing": one.sentence,
            "workspace": one.workspace,
            "check": shlex.join(one.check),
            "attempt": one.attempt,
            "steps": one.steps,
            "tokens": _tokens(one),
            "accepted": output.local_time(one.accepted_unix_nanos),
            "started": output.local_time(one.started_unix_nanos),
            "ended": output.local_time(one.ended_unix_nanos),
            "commit": one.commit,
            "waits for": f"your answer to {one.waiting_approval_id}" if one.waiting_approval_id else "",
        }
    )
    output.say("goal:")
    output.block(one.goal)


def _changed(one: agent_pb2.Task) -> None:
    if output.wants_json():
        output.emit(output.plain(one))
    else:
        output.say(f"{one.task_id} {live.state_of(one)}: {one.sentence}")


def _tokens(one: agent_pb2.Task) -> int:
    return one.prompt_tokens + one.completion_tokens


def _age(one: agent_pb2.Task) -> str:
    return output.since(one.accepted_unix_nanos)
