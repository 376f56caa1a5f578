"""`checkpoints`: what is remembered, whether it is intact, what happened between two of them, and one more now."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from selfwarectl import keys, output, reach
from selfwarectl.tags import tag, untag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selfware_common.rpc import agent_pb2, checkpoint_pb2, checkpoint_pb2_grpc

LONG_SECONDS = 600.0
SHOWN_CHARS = 2000


@click.group()
def checkpoints() -> None:
    """See the saved states and prove them intact."""


checkpoints.add_command(keys.new_key)
checkpoints.add_command(tag)
checkpoints.add_command(untag)


@checkpoints.command("ls")
@click.option("--session", default="", help="Only of this session.")
@output.json_option
def ls(session: str) -> None:
    """List the checkpoints, newest first.

    \b
    Examples:
      selfwarectl checkpoints ls
      selfwarectl checkpoints ls --session main --json
    """
    found = list_all(session)
    if output.wants_json():
        output.emit({"checkpoints": [output.plain(one) for one in found]})
        return
    rows = [
        (
            one.checkpoint_id,
            output.plain(one)["level"],
            output.local_time(one.created_unix_nanos),
            one.sequence,
            output.size(one.state_bytes),
            output.size(one.stored_bytes or one.cold_bytes),
            f"{one.tier}, damaged" if one.damage else one.tier,
            one.session_id,
            " ".join(one.tags),
            one.label,
        )
        for one in found
    ]
    head = ("ID", "LEVEL", "MADE", "EVENT", "STATE", "STORED", "TIER", "SESSION", "TAGS", "LABEL")
    output.table(head, rows, empty="no checkpoint was made yet")


@checkpoints.command("show")
@click.argument("checkpoint_id", metavar="ID")
@output.json_option
def show(checkpoint_id: str) -> int:
    """Show one checkpoint and prove it intact; exit status 1 when it is damaged.

    \b
    Examples:
      selfwarectl checkpoints show ckpt-00000042
      selfwarectl checkpoints show 42
    """
    one = find(checkpoint_id)
    verdict = _verify(one.checkpoint_id)[0]
    writing = _being_written(one) if verdict.intact else {}
    if output.wants_json():
        output.emit({**output.plain(one), "intact": verdict.intact, "problem": verdict.problem, "streams": writing})
    else:
        output.pairs(
            {
                "id": one.checkpoint_id,
                "session": one.session_id,
                "level": output.plain(one)["level"],
                "made": output.local_time(one.created_unix_nanos),
                "holds": f"the state after event {one.sequence}",
                "state": output.size(one.state_bytes),
                "added to disk": output.size(one.stored_bytes),
                "lies": one.tier + (f" ({output.size(one.cold_bytes)} there)" if one.cold_bytes else ""),
                "BLAKE3 root": one.state_hash.hex(),
                "tags": " ".join(one.tags),
                "label": one.label,
                "intact": "yes"
                if verdict.intact
                else f"{'not known now' if verdict.unknown else 'no'}: {verdict.problem}",
            }
        )
        for request, stream in writing.items():
            output.say(f"the model was writing the answer to {request}, {stream['tokens']} tokens so far:")
            output.block(stream["text"][-SHOWN_CHARS:])
    return 0 if verdict.intact else 1


@checkpoints.command("verify")
@click.argument("checkpoint_id", metavar="[ID]", default="")
@output.json_option
def verify(checkpoint_id: str) -> int:
    """Read every chunk of all checkpoints (or of one) and compare its hash; exit status 1 when one is damaged,
    or lies in a cold store that cannot be reached.

    \b
    Examples:
      selfwarectl checkpoints verify
      selfwarectl checkpoints verify ckpt-00000042 --json
    """
    verdicts = _verify(find(checkpoint_id).checkpoint_id if checkpoint_id else "")
    unknown = [one for one in verdicts if one.unknown]
    damaged = [one for one in verdicts if not one.intact and not one.unknown]
    if output.wants_json():
        output.emit({"verdicts": [output.plain(one) for one in verdicts]})
    else:
        for one in damaged:
            output.say(f"{one.checkpoint_id} is damaged: {one.problem}")
        for one in unknown:
            output.say(f"{one.checkpoint_id} cannot be verified now: {one.problem}")
        intact = len(verdicts) - len(damaged) - len(unknown)
        output.say(f"{intact} of {len(verdicts)} checkpoints are intact")
    return 1 if damaged or unknown else 0


@checkpoints.command("tidy")
@output.json_option
def tidy() -> None:
    """Do now what checkpointd does every minute: delete what may go, pack the rest tighter, compress old journals.

    What may go is decided by [checkpoint] retention_days, max_size_bytes and keep_per_level; an intact checkpoint of
    each session and tagged ones always stay.

    \b
    Examples:
      selfwarectl checkpoints tidy
      selfwarectl checkpoints tidy --json
    """
    from selfware_common.rpc import checkpoint_pb2

    with calling() as stub:
        sentence = stub.Maintain(checkpoint_pb2.MaintainRequest(), timeout=LONG_SECONDS).sentence
    if output.wants_json():
        output.emit({"sentence": sentence})
    else:
        output.say(sentence)


@checkpoints.command("now")
@click.option("--level", type=click.Choice(["session", "system"]), default="system", help="system: with the files.")
@click.option("--label", default="", help="Shown in the list.")
@output.json_option
def now(level: str, label: str) -> None:
    """Make a checkpoint now, whatever the schedule says: what the agent knows and the files it works on.

    The files are saved between two actions; one that runs is waited for, up to a minute. Where nothing has changed
    since an earlier one, that one is named instead, under its own label.

    \b
    Examples:
      selfwarectl checkpoints now --label "before the big refactoring"
      selfwarectl checkpoints now --level session
    """
    from selfware_common.rpc import agent_pb2

    wanted = agent_pb2.SaveLevel.Value(f"SAVE_LEVEL_{level.upper()}")
    known = {one.checkpoint_id for one in list_all("")}
    made = save_now(agent_pb2.SaveNowRequest(level=wanted, label=label))
    there = find(made.checkpoint_id)
    unchanged = there.checkpoint_id in known
    if output.wants_json():
        output.emit({**output.plain(made), "unchanged": unchanged, "label": there.label})
        return
    size, stored = output.size(made.state_bytes), output.size(made.stored_bytes)
    if unchanged:
        since = f'{there.checkpoint_id} (label "{there.label}", {output.local_time(there.created_unix_nanos)})'
        output.say(f"nothing has changed since {since}: it holds the state after event {made.sequence}, {size}")
    else:
        output.say(f"saved {made.checkpoint_id}: the state after event {made.sequence}, {size}, {stored} more on disk")
    if label not in ("", there.label):
        command = f"selfwarectl checkpoints tag {there.checkpoint_id} NAME"
        output.say(f"  it keeps its label; '{command}' gives it a name that finds it")
    for note in made.notes:
        output.say(f"  {note}")


@checkpoints.command("diff")
@click.argument("before", metavar="ID")
@click.argument("after", metavar="[ID]", default="")
@click.option("--all", "show_all", is_flag=True, help="Every message and every file, not the first few.")
@output.json_option
def diff(before: str, after: str, show_all: bool) -> None:
    """Show what happened between two checkpoints: tasks, messages, and files where both have them.

    Without a second ID the newest checkpoint of the same session and level is meant.

    \b
    Examples:
      selfwarectl checkpoints diff ckpt-00000042 ckpt-00000051
      selfwarectl checkpoints diff 42 --all
      selfwarectl checkpoints diff 42 51 --json | jq .files
    """
    from selfwarectl import differences

    known = list_all("")
    one = find(before)
    other = (
        find(after)
        if after
        else next(two for two in known if (two.session_id, two.level) == (one.session_id, one.level))
    )
    found = differences.between(one.checkpoint_id, other.checkpoint_id)
    if output.wants_json():
        output.emit({"from": output.plain(one), "to": output.plain(other), **found})
    else:
        output.say(f"from {described(one)}")
        output.say(f"to   {described(other)}")
        differences.show(found, show_all)


@contextmanager
def calling() -> Iterator[checkpoint_pb2_grpc.CheckpointStub]:
    """checkpointd; what fails becomes one of our errors."""
    from selfware_common.rpc import checkpoint_pb2_grpc

    with reach.calling("checkpointd") as channel:
        yield checkpoint_pb2_grpc.CheckpointStub(channel)


def list_all(session: str) -> list[checkpoint_pb2.CheckpointInfo]:
    """Newest first; of every session if none is named."""
    from selfware_common.rpc import checkpoint_pb2

    with calling() as stub:
        return list(stub.List(checkpoint_pb2.ListRequest(session_id=session), timeout=reach.SECONDS).checkpoints)


def find(wanted: str) -> checkpoint_pb2.CheckpointInfo:
    """The one that is meant."""
    known = {one.checkpoint_id: one for one in list_all("")}
    tagged = {name: one for one in known.values() for name in one.tags}
    if wanted in tagged:
        return tagged[wanted]
    return known[reach.find(wanted, list(known), "checkpoint", "selfwarectl checkpoints ls")]


def _verify(checkpoint_id: str) -> list[checkpoint_pb2.Verdict]:
    from selfware_common.rpc import checkpoint_pb2

    with calling() as stub:
        request = checkpoint_pb2.VerifyRequest(checkpoint_id=checkpoint_id)
        return list(stub.Verify(request, timeout=LONG_SECONDS).verdicts)


def _being_written(one: checkpoint_pb2.CheckpointInfo) -> dict[str, dict[str, Any]]:
    """Of a micro checkpoint: what the model had written of replies under way, by request."""
    if output.plain(one)["level"] != "micro":
        return {}
    from selfwarectl import differences

    with differences.opened(one.checkpoint_id) as file:
        return differences.streams_in(file)


def described(one: checkpoint_pb2.CheckpointInfo) -> str:
    """In a few words."""
    made, level = output.local_time(one.created_unix_nanos), output.plain(one)["level"]
    label = f", {one.label}" if one.label not in ("", f"event {one.sequence}") else ""
    return f"{one.checkpoint_id} ({level} of {one.session_id}, {made}, event {one.sequence}{label})"


def save_now(request: agent_pb2.SaveNowRequest) -> agent_pb2.SaveNowReply:
    """Have the agent make a checkpoint."""
    from selfware_common.rpc import agent_pb2_grpc

    with reach.calling("agent") as channel:
        return agent_pb2_grpc.AgentStub(channel).SaveNow(request, timeout=LONG_SECONDS)
