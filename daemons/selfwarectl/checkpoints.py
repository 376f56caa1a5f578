"""`checkpoints` and `recover`: what is remembered, whether it is intact, and what a recovery would use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from selfwarectl import output, reach
from selfwarectl.tasks import newest_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc

LONG_SECONDS = 600.0


@click.group()
def checkpoints() -> None:
    """See the saved states and prove them intact."""


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
    found = _list(session)
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
            one.label,
        )
        for one in found
    ]
    head = ("ID", "LEVEL", "MADE", "EVENT", "STATE", "STORED", "TIER", "SESSION", "LABEL")
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
    one = _find(checkpoint_id)
    verdict = _verify(one.checkpoint_id)[0]
    if output.wants_json():
        output.emit({**output.plain(one), "intact": verdict.intact, "problem": verdict.problem})
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
                "label": one.label,
                "intact": "yes"
                if verdict.intact
                else f"{'not known now' if verdict.unknown else 'no'}: {verdict.problem}",
            }
        )
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
    verdicts = _verify(_find(checkpoint_id).checkpoint_id if checkpoint_id else "")
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
    each session always stays.

    \b
    Examples:
      selfwarectl checkpoints tidy
      selfwarectl checkpoints tidy --json
    """
    from selfware_common.rpc import checkpoint_pb2

    with _checkpointd() as stub:
        sentence = stub.Maintain(checkpoint_pb2.MaintainRequest(), timeout=LONG_SECONDS).sentence
    if output.wants_json():
        output.emit({"sentence": sentence})
    else:
        output.say(sentence)


@click.command()
@click.option("--checkpoint", "checkpoint_id", default="", metavar="ID", help="From this one instead of the newest.")
@click.option("--session", default="", help="Of this session instead of the newest.")
@output.json_option
def recover(checkpoint_id: str, session: str) -> int:
    """Show what a recovery would use: which checkpoint, which events after it, what it would pass over.

    Changes nothing: the agent recovers by itself whenever it starts. Exit status 1 when there is nothing to recover.

    \b
    Examples:
      selfwarectl recover
      selfwarectl recover --checkpoint ckpt-00000042 --json
    """
    if checkpoint_id:
        chosen = _find(checkpoint_id)
        checkpoint_id, session = chosen.checkpoint_id, session or chosen.session_id
    session = session or newest_session()
    if not session:
        raise reach.FailedError(reason="There is no session yet: nothing to recover.")
    plan = _dry_recovery(session, checkpoint_id)
    if output.wants_json():
        output.emit(plan)
    else:
        _print_plan(plan)
    return 0


def _dry_recovery(session: str, checkpoint_id: str) -> dict[str, Any]:
    from selfware_common.rpc import checkpoint_pb2

    request = checkpoint_pb2.RecoverRequest(session_id=session, checkpoint_id=checkpoint_id)
    header, state_bytes, sequences = checkpoint_pb2.RecoverHeader(), 0, []
    with _checkpointd() as stub:
        for reply in stub.Recover(request, timeout=LONG_SECONDS):
            part = reply.WhichOneof("part")
            if part == "header":
                header = reply.header
            elif part == "data":
                state_bytes += len(reply.data)
            else:
                sequences += [event.sequence for event in reply.events.events]
    return {
        "session_id": session,
        "checkpoint": output.plain(header.checkpoint) if header.HasField("checkpoint") else None,
        "skipped": list(header.skipped),
        "state_bytes": state_bytes,
        "events": len(sequences),
        "first_event": sequences[0] if sequences else 0,
        "last_sequence": header.last_sequence,
    }


def _print_plan(plan: dict[str, Any]) -> None:
    used = plan["checkpoint"]
    for sentence in plan["skipped"]:
        output.say(f"passed over: {sentence}")
    if used is None:
        output.say(f"session {plan['session_id']}: from the beginning, there is no intact checkpoint")
    else:
        made = output.local_time(used["created_unix_nanos"])
        output.say(
            f"session {plan['session_id']}: from {used['checkpoint_id']} ({used['level']}, {made}, "
            f"{output.size(plan['state_bytes'])}, state after event {used['sequence']})"
        )
    after = f"{plan['first_event']} to {plan['last_sequence']}" if plan["events"] else "none"
    output.say(f"then {plan['events']} events after it ({after}); changed nothing")


@contextmanager
def _checkpointd() -> Iterator[checkpoint_pb2_grpc.CheckpointStub]:
    from selfware_common.rpc import checkpoint_pb2_grpc

    with reach.calling("checkpointd") as channel:
        yield checkpoint_pb2_grpc.CheckpointStub(channel)


def _list(session: str) -> list[checkpoint_pb2.CheckpointInfo]:
    from selfware_common.rpc import checkpoint_pb2

    with _checkpointd() as stub:
        return list(stub.List(checkpoint_pb2.ListRequest(session_id=session), timeout=reach.SECONDS).checkpoints)


def _find(wanted: str) -> checkpoint_pb2.CheckpointInfo:
    known = {one.checkpoint_id: one for one in _list("")}
    return known[reach.find(wanted, list(known), "checkpoint", "selfwarectl checkpoints ls")]


def _verify(checkpoint_id: str) -> list[checkpoint_pb2.Verdict]:
    from selfware_common.rpc import checkpoint_pb2

    with _checkpointd() as stub:
        request = checkpoint_pb2.VerifyRequest(checkpoint_id=checkpoint_id)
        return list(stub.Verify(request, timeout=LONG_SECONDS).verdicts)
