"""`selfwarectl demo`, which is `make run`: the whole stack, a real job on the embedded model, an honest
table.

Nothing here solves anything: it starts the stack, creates a small repository, hands over goals as any
operator would, watches, and afterwards runs every check once more by itself, in the sandbox, because a
claim of success counts only with evidence.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import click
import grpc
import grpc.aio

from selfware_common import clients, paths, settings
from selfware_common.errors import UnreachableError
from selfware_common.rpc import agent_pb2, agent_pb2_grpc
from selfwarectl import output, reach
from selfwarectl.demo import evidence
from selfwarectl.demo.demo_job import DemoTask, create, load_tasks
from selfwarectl.demo.screen import Screen
from selfwarectl.foreground import Stack

ENDED = frozenset({agent_pb2.TASK_STATE_SOLVED, agent_pb2.TASK_STATE_FAILED, agent_pb2.TASK_STATE_CANCELLED})
START_SECONDS = 120.0


@click.command()
@click.option("--attempts", default=10, show_default=True, help="Samples per task before it counts as not solved.")
@click.option("--tasks", "limit", default=0, help="Work on the first N tasks only.")
@output.json_option
def demo(attempts: int, limit: int) -> None:
    """Run the demo job to its end: on the running units where Selfware is installed, else on a stack of its own.

    \b
    Examples:
      selfwarectl demo               all tasks, with a table at the end
      selfwarectl demo --tasks 3     a taste
    """
    raise SystemExit(asyncio.run(_demo(attempts, limit)))


async def _demo(attempts: int, limit: int) -> int:
    where = paths.from_environment()
    installed = where == paths.system()
    home = where.state if installed else Path(os.environ.get("SELFWARE_HOME", ".selfware")).absolute()
    tasks = load_tasks()[: limit or None]
    run, workspace = _fresh_workspace(home)
    create(workspace, tasks)
    screen = Screen(len(tasks))
    began = time.monotonic()
    async with nullcontext() if installed else _stack(home, screen):
        ended = await _work(where, tasks, run, workspace, attempts, screen)
    screen.table(tasks, ended)
    screen.commits(workspace)
    solved = {name for name, task in ended.items() if task.state == agent_pb2.TASK_STATE_SOLVED}
    screen.say("checking every claim once more ...")
    false_claims = [task.name for task in tasks if task.name in solved and not evidence.holds(where, workspace, task)]
    for name in false_claims:
        screen.say(f"NOT TRUE: {name} was reported solved, but its check fails")
    screen.say(f"workspace: {workspace}")
    screen.say("state, logs: " + str(home))
    screen.last(len(solved) - len(false_claims), len(tasks), time.monotonic() - began)
    return 0 if solved and not false_claims and len(ended) == len(tasks) else 1


@asynccontextmanager
async def _stack(home: Path, screen: Screen) -> AsyncIterator[None]:
    """Up while the block runs; Ctrl-C and SIGTERM stop it cleanly."""
    stack = Stack(home, settings.load(paths.foreground(home).config_file))
    screen.say(f"starting {', '.join(stack.names)} in {home}")
    await stack.start()
    me = asyncio.current_task()
    assert me is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    watching = asyncio.create_task(_give_up_when_failed(stack, me))
    try:
        begin = time.monotonic()
        await stack.wait_ready(START_SECONDS)
        screen.say(f"all ready after {time.monotonic() - begin:.1f} s; 'selfwarectl status' shows them")
        yield
    except asyncio.CancelledError:
        why = watching.result() if watching.done() and not watching.cancelled() else "interrupted"
        raise reach.FailedError(reason=f"The demo stopped before its end: {why}.") from None
    finally:
        watching.cancel()
        screen.say("stopping")
        await stack.stop()


async def _give_up_when_failed(stack: Stack, task: asyncio.Task[object]) -> str:
    why = await stack.failed()
    task.cancel()
    return why


async def _work(
    where: paths.Paths, tasks: tuple[DemoTask, ...], run: str, workspace: Path, attempts: int, screen: Screen
) -> dict[str, agent_pb2.Task]:
    """Hand over every goal, then watch until all have ended; returns the results by task name."""
    names = {f"{run}-{task.name}": task.name for task in tasks}
    async with clients.channel(where.socket_of("agent")) as channel:
        agent = agent_pb2_grpc.AgentStub(channel)
        for goal_id, task in zip(names, tasks, strict=True):
            await _submit(agent, goal_id, task, workspace, attempts)
        ended: dict[str, agent_pb2.Task] = {}
        while len(ended) < len(tasks):
            try:
                async for progress in agent.Watch(agent_pb2.WatchRequest()):
                    name = names.get(progress.task.task_id)
                    if name is None or name in ended:
                        continue
                    screen.show(name, progress)
                    if progress.task.state in ENDED:
                        ended[name] = progress.task
                        screen.ended(name, progress.task, len(ended))
                    if len(ended) == len(tasks):
                        break
            except grpc.aio.AioRpcError as error:
                screen.say(f"waiting for the agent: {error.details()}")
                await asyncio.sleep(0.2)
    return ended


async def _submit(
    agent: agent_pb2_grpc.AgentAsyncStub, goal_id: str, task: DemoTask, workspace: Path, attempts: int
) -> None:
    """Register with oversightd, then submit; both are idempotent, so a restart in between is waited out."""
    goal = {"goal_id": goal_id, "workspace": str(workspace), "check": list(task.check), "commit": True}
    request = agent_pb2.SubmitRequest(
        goal_id=goal_id,
        goal=task.goal,
        workspace=str(workspace),
        check=task.check,
        target_paths=task.targets,
        context_paths=task.context,
        commit=True,
        max_attempts=attempts,
    )
    for attempt in range(100):
        try:
            await asyncio.to_thread(reach.operator, "POST", "/goals", goal)
            await agent.Submit(request, timeout=10)
        except (UnreachableError, grpc.aio.AioRpcError) as error:
            if attempt == 99 or (isinstance(error, grpc.aio.AioRpcError) and error.code() not in _PASSING):
                raise reach.FailedError(reason=f"The agent did not take a goal: {error}.") from error
            await asyncio.sleep(0.2)
        else:
            return


_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def _fresh_workspace(home: Path) -> tuple[str, Path]:
    """demo-1, demo-2, ...: earlier work is never overwritten."""
    parent = home / "workspaces"
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while (parent / f"demo-{number}").exists():
        number += 1
    # The session may remember goals of a workspace that somebody has removed: they are not these.
    return f"demo-{number}-{secrets.token_hex(2)}", parent / f"demo-{number}"
