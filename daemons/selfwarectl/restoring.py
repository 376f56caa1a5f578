"""`restore`: go back to a checkpoint, what the agent knew and the files it worked on, and be able to undo that.

The order matters. First nothing may begin any more, and nobody may ask for what would be forgotten; then the present
is saved, then oversightd puts the files back, last the agent goes back. Whatever fails or dies in between, everything
stays like that and the same command goes on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from selfware_common.errors import SelfwareError
from selfwarectl import checkpoints, differences, output, reach

if TYPE_CHECKING:
    from selfware_common.rpc import agent_pb2, checkpoint_pb2

REST_SECONDS = 60.0
"""How long an action that runs is waited for."""
FILES_SECONDS = 600.0


@click.command()
@click.argument("checkpoint_id", metavar="ID")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--no-files", is_flag=True, help="Only what the agent knew; the files stay as they are.")
@click.option("--stay-paused", is_flag=True, help="Do not go on afterwards; 'selfwarectl resume' does.")
@output.json_option
def restore(checkpoint_id: str, dry_run: bool, no_files: bool, stay_paused: bool) -> None:
    """Go back to a checkpoint: what the agent knew, and the files of its workspaces.

    Only checkpoints of level 'system' hold files. The present is saved first, so that this can be undone in the same
    way. Tasks that were given later are forgotten, later approvals are withdrawn. Until it is done, no goal is taken
    and no question answered.

    \b
    Examples:
      selfwarectl restore ckpt-00000042 --dry-run
      selfwarectl restore ckpt-00000042
      selfwarectl restore 42 --no-files --stay-paused
    """
    one = checkpoints.find(checkpoint_id)
    with_files = not no_files
    if with_files:
        _require_files(one)
    if dry_run:
        _show_dry_run(one, with_files)
        return
    # One that died: its files may be back already, so what undoes it is what it saved, and it is not given up.
    safety = str(_begin(one.checkpoint_id)["undone_by"])
    try:
        come_to_rest(one.checkpoint_id, goes_on=bool(safety))
        present = _save_present(one, with_files, goes_on=bool(safety))
        safety = safety or present
        _begin(one.checkpoint_id, undone_by=safety)
        files = put_files_back(one.checkpoint_id, {}, with_files=with_files)
        reply = _restore_agent(one.checkpoint_id)
        paused = bool(_end(one.checkpoint_id, stay_paused=stay_paused)["paused"])
    except NothingChangedError:
        raise
    except (SelfwareError, KeyboardInterrupt) as error:
        reason = error.sentence if isinstance(error, SelfwareError) else "it was interrupted."
        flag = "" if with_files else " --no-files"
        undo = f"'selfwarectl restore {safety}{flag}' to have everything as it was before, " if safety else ""
        command = f"selfwarectl restore {one.checkpoint_id}{flag}"
        raise StillPausedError(reason=reason, command=command, undo=undo) from None
    _show_done(one, safety, files, reply, paused=paused)


class NothingChangedError(SelfwareError):
    """{reason}"""

    exit_code = 1


class StillRunsError(NothingChangedError):
    """{reason}"""

    exit_code = 4


class StillPausedError(SelfwareError):
    """The restore was not finished: {reason}"""

    exit_code = 1
    hint = (
        "Actions stay paused and nothing is lost: run '{command}' again, {undo}"
        "or 'selfwarectl resume --give-up-restore' to go on as it is now."
    )


class NoFilesError(SelfwareError):
    """{checkpoint_id} holds what the agent knew, but no files: its level is {level}."""

    exit_code = 4
    hint = "Choose one of level 'system' (selfwarectl checkpoints ls), or add --no-files."


def come_to_rest(checkpoint_id: str, *, goes_on: bool) -> None:
    """Nothing begins any more: wait until nothing runs. If something runs on, go on as before and say so."""
    end = time.monotonic() + REST_SECONDS
    while running := reach.operator("GET", "/status")["running"]:
        if time.monotonic() > end:
            reason = f"The action {running[0]} still runs after {REST_SECONDS:.0f} s"
            if goes_on:
                raise reach.FailedError(reason=f"{reason}.")
            _end(checkpoint_id, given_up=True)
            raise StillRunsError(reason=f"{reason}; nothing was changed. Try again when it has ended.")
        time.sleep(0.2)


def put_files_back(
    checkpoint_id: str, into: dict[str, str], dry_run: bool = False, with_files: bool = True
) -> list[dict[str, Any]]:
    """Have oversightd make workspaces (or other directories, by workspace) as they were; what it did with each. In any
    case what waits there is undone: else it could begin later, and so would the same action of the session restored."""
    body = {"dry_run": dry_run, "into": into, "files": with_files}
    answer = reach.operator("POST", f"/checkpoints/{checkpoint_id}/restore", body, FILES_SECONDS)
    found: list[dict[str, Any]] = answer["workspaces"]
    return found


def _require_files(one: checkpoint_pb2.CheckpointInfo) -> None:
    level = output.plain(one)["level"]
    if level != "system":
        raise NoFilesError(checkpoint_id=one.checkpoint_id, level=level)


def _begin(checkpoint_id: str, undone_by: str = "") -> dict[str, Any]:
    """Everybody is told, durably, until it ends; what was known of it by then."""
    told: dict[str, Any] = reach.operator(
        "POST", f"/checkpoints/{checkpoint_id}/restore-begins", {"undone_by": undone_by}
    )
    return told


def _end(checkpoint_id: str, *, given_up: bool = False, stay_paused: bool = False) -> dict[str, Any]:
    """Go on, unless somebody paused."""
    body = {"given_up": given_up, "stay_paused": stay_paused}
    told: dict[str, Any] = reach.operator("POST", f"/checkpoints/{checkpoint_id}/restore-ends", body)
    return told


def _save_present(one: checkpoint_pb2.CheckpointInfo, with_files: bool, *, goes_on: bool) -> str:
    """What undoes this; the id of the checkpoint."""
    from selfware_common.rpc import agent_pb2

    level = agent_pb2.SAVE_LEVEL_SYSTEM if with_files else agent_pb2.SAVE_LEVEL_SESSION
    label = f"before restoring {one.checkpoint_id}"
    try:
        request = agent_pb2.SaveNowRequest(level=level, label=label, before_restore=True)
        return checkpoints.save_now(request).checkpoint_id
    except SelfwareError as error:
        if goes_on:
            raise
        _end(one.checkpoint_id, given_up=True)
        reason = f"The present could not be saved first, so nothing was changed: {error.sentence}"
        raise NothingChangedError(reason=reason) from None


def _restore_agent(checkpoint_id: str) -> agent_pb2.RestoreReply:
    from selfware_common.rpc import agent_pb2, agent_pb2_grpc

    with reach.calling("agent") as channel:
        stub = agent_pb2_grpc.AgentStub(channel)
        return stub.Restore(agent_pb2.RestoreRequest(checkpoint_id=checkpoint_id), timeout=checkpoints.LONG_SECONDS)


def _show_dry_run(one: checkpoint_pb2.CheckpointInfo, with_files: bool) -> None:
    tasks = _tasks_that_change(one.checkpoint_id)
    files = put_files_back(one.checkpoint_id, {}, dry_run=True) if with_files else []
    if output.wants_json():
        output.emit({"checkpoint": output.plain(one), "tasks": tasks, "workspaces": files})
        return
    output.say(f"would go back to {checkpoints.described(one)}")
    for kind, words in (("deleted", "would be forgotten"), ("changed", "would go back"), ("added", "would come back")):
        for task in tasks[kind]:
            states = " → ".join(task[end]["state"] for end in ("from", "to") if end in task)
            output.say(f"  {task['task_id']} {words}: {states}")
    _show_files(files, "would be")
    output.say("nothing was changed")


def _tasks_that_change(checkpoint_id: str) -> dict[str, list[dict[str, Any]]]:
    """From now to then."""
    from selfware_common.rpc import agent_pb2, agent_pb2_grpc

    with reach.calling("agent") as channel:
        listed = agent_pb2_grpc.AgentStub(channel).ListTasks(agent_pb2.ListTasksRequest(), timeout=reach.SECONDS)
    now = {one.task_id: {"state": output.plain(one)["state"]} for one in listed.tasks}
    with differences.opened(checkpoint_id) as file:
        tasks = differences.session_in(file, checkpoint_id)["tasks"]
    then = {name: {"state": task["phase"]} for name, task in tasks.items()}
    return {
        "added": [{"task_id": name, "to": then[name]} for name in sorted(then.keys() - now.keys())],
        "changed": [
            {"task_id": name, "from": now[name], "to": then[name]}
            for name in sorted(then.keys() & now.keys())
            if now[name] != then[name]
        ],
        "deleted": [{"task_id": name, "from": now[name]} for name in sorted(now.keys() - then.keys())],
    }


def _show_done(
    one: checkpoint_pb2.CheckpointInfo,
    safety: str,
    files: list[dict[str, Any]],
    reply: agent_pb2.RestoreReply,
    paused: bool,
) -> None:
    if output.wants_json():
        restored = {"checkpoint": output.plain(one), "saved_before": safety, "workspaces": files, "paused": paused}
        output.emit({**restored, "session_id": reply.session_id, "sequence": reply.sequence})
        return
    output.say(f"session {reply.session_id} is back at {checkpoints.described(one)}")
    _show_files(files, "were")
    undo = f"selfwarectl restore {safety}" + ("" if files else " --no-files")
    output.say(f"'{undo}' undoes this" + ("; still paused, 'selfwarectl resume' goes on" if paused else ""))


def _show_files(files: list[dict[str, Any]], would: str) -> None:
    for one in files:
        counts = ", ".join(f"{one[kind]['count']} {kind}" for kind in ("created", "changed", "deleted"))
        output.say(f"  files in {one['directory']} {would}: {counts}")
        for kind in ("created", "changed", "deleted"):
            for path in one[kind]["paths"][: differences.FEW]:
                output.say(f"    {kind} {path}")
