"""`run`: a goal for the agent.

The goal is first registered with oversightd, which learns from the operator, not from the agent, which directory may be
worked in and which command is the check; only then is it given to the agent.
"""

from __future__ import annotations

import math
import secrets
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from selfware_common.errors import UsageError
from selfwarectl import live, output, reach

if TYPE_CHECKING:
    from selfware_common.rpc import agent_pb2

PRIORITIES = ("low", "normal", "high", "critical")
TOKENS = click.IntRange(1, 10**15)
HOURS = click.FloatRange(0, 10**6, min_open=True)
ATTEMPTS = click.IntRange(1, 10**6)


@click.command()
@click.argument("goal")
@click.option(
    "--workspace",
    required=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Directory the work happens in; nothing outside it is changed.",
)
@click.option("--check", default="", metavar="CMD", help="Command whose exit status 0 means done.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@click.option("--budget-tokens", type=TOKENS, default=None, help="Give up after so many tokens.")
@click.option("--budget-hours", type=HOURS, default=None, help="Give up after so long.")
@click.option(
    "--target", "targets", multiple=True, metavar="PATH", help="File it may write (repeatable); default: any."
)
@click.option("--context", "contexts", multiple=True, metavar="PATH", help="File the model should see (repeatable).")
@click.option("--attempts", type=ATTEMPTS, default=None, help="Attempts before it counts as failed.")
@click.option("--commit/--no-commit", default=False, help="Commit the workspace with git when the check passes.")
@click.option("--wait", is_flag=True, help="Show progress until the end; exit 0 if solved, 1 if not.")
@output.json_option
def run(
    goal: str,
    workspace: Path,
    *,
    check: str,
    priority: str,
    budget_tokens: int | None,
    budget_hours: float | None,
    targets: tuple[str, ...],
    contexts: tuple[str, ...],
    attempts: int | None,
    commit: bool,
    wait: bool,
) -> int:
    """Give the agent a goal to work on.

    \b
    Examples:
      selfwarectl run "Fix the off-by-one in window()" --workspace ~/repo \\
          --check "python -m pytest -q" --target window.py --commit --wait
      selfwarectl run "Explain build.log in NOTES.md" --workspace ~/repo --context build.log
    """
    from selfware_common.rpc import agent_pb2, inference_pb2

    argv = _argv(check)
    if budget_hours is not None and math.isnan(budget_hours):
        raise UsageError(problem="--budget-hours is not a number.")
    _require_text(workspace)
    request = agent_pb2.SubmitRequest(
        goal_id=f"task-{time.strftime('%y%m%d')}-{secrets.token_hex(3)}",
        goal=goal,
        workspace=str(workspace),
        check=argv,
        priority=inference_pb2.Priority.Value(f"PRIORITY_{priority.upper()}"),
        budget_tokens=budget_tokens or 0,
        budget_seconds=3600 * (budget_hours or 0.0),
        max_attempts=attempts or 0,
        context_paths=[_inside(workspace, path) for path in contexts],
        target_paths=[_inside(workspace, path) for path in targets],
        commit=commit,
    )
    task = submit(request)
    if not wait:
        _accepted(task)
        return 0
    try:
        task = live.follow(task.task_id, live.Line())
    except KeyboardInterrupt:
        click.echo(f"\nThe task goes on; 'selfwarectl tasks show {task.task_id}' shows it.", err=True)
        raise
    return _ended(task)


def submit(request: agent_pb2.SubmitRequest) -> agent_pb2.Task:
    """Register the goal with oversightd, then give it to the agent. Harmless when repeated with the same goal_id."""
    from selfware_common.rpc import agent_pb2_grpc

    goal = {
        "goal_id": request.goal_id,
        "workspace": request.workspace,
        "check": list(request.check),
        "commit": request.commit,
    }
    reach.operator("POST", "/goals", goal)
    with reach.calling("agent") as channel:
        return agent_pb2_grpc.AgentStub(channel).Submit(request, timeout=reach.SECONDS)


def _argv(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(problem=f"--check {command!r} cannot be split into words: {error}") from None


def _require_text(workspace: Path) -> None:
    try:
        str(workspace).encode()
    except UnicodeEncodeError:
        raise UsageError(problem=f"The workspace {workspace} has a name that is not valid UTF-8.") from None


def _inside(workspace: Path, name: str) -> str:
    """A path below the workspace, relative to it; given so already, or absolute."""
    path = (workspace / name).resolve()
    if not path.is_relative_to(workspace) or path == workspace:
        raise UsageError(problem=f"{name} is not a file inside the workspace {workspace}")
    return str(path.relative_to(workspace))


def _accepted(task: agent_pb2.Task) -> None:
    if output.wants_json():
        output.emit(output.plain(task))
    else:
        output.say(f"accepted {task.task_id}; 'selfwarectl tasks show {task.task_id}' shows how it goes")


def _ended(task: agent_pb2.Task) -> int:
    if output.wants_json():
        output.emit(output.plain(task))
    else:
        proof = " (the check passed)" if task.verified else ""
        commit = f", commit {task.commit[:12]}" if task.commit else ""
        output.say(f"{task.task_id} {live.state_of(task)}{proof}{commit}: {task.sentence}")
    return 0 if live.state_of(task) == "solved" else 1
