"""`fork`: a second session that begins with what a checkpoint holds, in copies of the workspaces of that moment."""

from __future__ import annotations

import itertools
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfware_common.errors import SelfwareError, UnreachableError, UsageError
from selfware_common.state.sections import WORKSPACE, sections_of
from selfwarectl import checkpoints, differences, output, reach, restoring

if TYPE_CHECKING:
    from selfware_common.rpc import agent_pb2


REGISTER_SECONDS = 10.0


class DirectoryExistsError(SelfwareError):
    """{path} exists already, and a fork puts its files into a new directory."""

    exit_code = 4
    hint = "Choose another name with --name, or another directory with --into."


class HalfAForkError(SelfwareError):
    """The fork {name} was not finished: {reason}"""

    exit_code = 1
    hint = (
        "The present session is as it was. Do not work on {name}: fork again with another --name, and delete what is "
        "left in {places}."
    )


@click.command()
@click.argument("checkpoint_id", metavar="ID")
@click.option("--name", default="", help="Of the new session; otherwise one that is free.")
@click.option("--into", "parent", type=click.Path(path_type=Path), help="Where the copies go; otherwise beside each.")
@click.option("--switch", is_flag=True, help="Have the agent work on it at once.")
@output.json_option
def fork(checkpoint_id: str, name: str, parent: Path | None, switch: bool) -> None:
    """Begin a second session from a checkpoint, with the files of that moment in new directories.

    The present session stays as it is. The fork's tasks have the fork's name behind their ids. One agent works on one
    session: 'selfwarectl recover --session NAME' changes to it, and back.

    \b
    Examples:
      selfwarectl fork ckpt-00000042
      selfwarectl fork 42 --name try-asyncio --switch
    """
    one = checkpoints.find(checkpoint_id)
    if output.plain(one)["level"] != "system":
        raise restoring.NoFilesError(checkpoint_id=one.checkpoint_id, level=output.plain(one)["level"])
    name = name or _free_name(one.session_id)
    into = _directories(one.checkpoint_id, name, parent)
    made: list[Path] = []
    try:
        for directory in into.values():
            Path(directory).mkdir(parents=True)
            made.append(Path(directory))
        files = restoring.put_files_back(one.checkpoint_id, into)
        reply = _fork_agent(one.checkpoint_id, name, into)
    except (UnreachableError, KeyboardInterrupt) as error:  # whoever was asked may still be at it, or has done it
        reason = error.sentence if isinstance(error, SelfwareError) else "it was interrupted."
        raise HalfAForkError(name=name, reason=reason, places=", ".join(map(str, made)) or "none") from None
    except (SelfwareError, OSError):
        for path in made:  # new ones, ours, so that the same command can be given again
            with suppress(OSError):
                shutil.rmtree(path)
        raise
    try:
        for goal in reply.goals:
            _register(goal)
    except (SelfwareError, KeyboardInterrupt) as error:  # without its goal every action would be refused
        reason = error.sentence if isinstance(error, SelfwareError) else "it was interrupted."
        raise HalfAForkError(name=name, reason=reason, places=", ".join(map(str, made))) from None
    said = _switch(name) if switch else ""
    _show(one.checkpoint_id, reply, files, said)


def _register(goal: agent_pb2.ForkedGoal) -> None:
    """Tell oversightd, which may be restarting."""
    about = {"goal_id": goal.goal_id, "workspace": goal.workspace, "check": list(goal.check), "commit": goal.commit}
    end = time.monotonic() + REGISTER_SECONDS
    while True:
        try:
            reach.operator("POST", "/goals", about)
            return
        except UnreachableError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


def _free_name(session_id: str) -> str:
    from selfware_common.rpc import checkpoint_pb2

    with checkpoints.calling() as stub:
        reply = stub.ListSessions(checkpoint_pb2.ListSessionsRequest(), timeout=reach.SECONDS)
    taken = {one.session_id for one in reply.sessions}
    return next(name for n in itertools.count(1) if (name := f"{session_id}-fork-{n}") not in taken)


def _directories(checkpoint_id: str, name: str, parent: Path | None) -> dict[str, str]:
    """Workspace: where its copy goes."""
    with differences.opened(checkpoint_id) as file:
        sections = sections_of(file, checkpoint_id)
    into = {}
    for section in sections:
        if section.kind == WORKSPACE:
            workspace = Path(section.name)
            copy = (parent or workspace.parent).resolve() / f"{workspace.name}-{name}"
            if copy.exists():
                raise DirectoryExistsError(path=copy)
            into[section.name] = str(copy)
    if len(set(into.values())) < len(into):
        raise UsageError(problem="Two workspaces have the same name: leave --into away.")
    return into


def _fork_agent(checkpoint_id: str, name: str, into: dict[str, str]) -> agent_pb2.ForkReply:
    from selfware_common.rpc import agent_pb2, agent_pb2_grpc

    request = agent_pb2.ForkRequest(checkpoint_id=checkpoint_id, session_id=name, workspaces=into)
    with reach.calling("agent") as channel:
        return agent_pb2_grpc.AgentStub(channel).Fork(request, timeout=checkpoints.LONG_SECONDS)


def _switch(name: str) -> str:
    from selfware_common.rpc import agent_pb2, agent_pb2_grpc

    with reach.calling("agent") as channel:
        stub = agent_pb2_grpc.AgentStub(channel)
        return stub.Recover(agent_pb2.RecoverRequest(session_id=name), timeout=checkpoints.LONG_SECONDS).sentence


def _show(checkpoint_id: str, reply: agent_pb2.ForkReply, files: list[dict[str, Any]], said: str) -> None:
    if output.wants_json():
        output.emit({**output.plain(reply), "forked_from": checkpoint_id, "workspaces": files, "switched": bool(said)})
        return
    output.say(f"session {reply.session_id} begins with {checkpoint_id}, at event {reply.sequence}")
    for one in files:
        output.say(f"  {one['workspace']} is copied to {one['directory']}: {one['created']['count']} entries")
    for goal in reply.goals:
        output.say(f"  its task {goal.goal_id} goes on in {goal.workspace}")
    output.say(said or f"'selfwarectl recover --session {reply.session_id}' has the agent work on it")
