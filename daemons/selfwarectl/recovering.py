"""`recover`: begin again from what is remembered, or see what that would use."""

from __future__ import annotations

from typing import Any

import click

from selfware_common.errors import UsageError
from selfwarectl import checkpoints, output, reach
from selfwarectl.tasks import newest_session


@click.command()
@click.option("--checkpoint", "checkpoint_id", default="", metavar="ID", help="From this one instead of the newest.")
@click.option("--session", default="", help="Of this session; without --dry-run the agent works on it from now on.")
@click.option("--dry-run", is_flag=True, help="Show what would be used, and change nothing.")
@output.json_option
def recover(checkpoint_id: str, session: str, dry_run: bool) -> int:
    """Have the agent begin again from what is remembered: the newest intact checkpoint and the events after it.

    It does so by itself whenever it starts; asked for, it is how to change to another session, such as a fork. With
    --checkpoint only what would follow is shown (to go back to one, see 'selfwarectl restore'). Exit status 1 when
    there is nothing to recover.

    \b
    Examples:
      selfwarectl recover --dry-run
      selfwarectl recover --dry-run --checkpoint ckpt-00000042 --json
      selfwarectl recover --session main-fork-1
    """
    if checkpoint_id and not dry_run:
        raise UsageError(problem="--checkpoint needs --dry-run; 'selfwarectl restore ID' goes back to a checkpoint.")
    if not dry_run:
        return _recover_now(session)
    if checkpoint_id:
        chosen = checkpoints.find(checkpoint_id)
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
    with checkpoints.calling() as stub:
        for reply in stub.Recover(request, timeout=checkpoints.LONG_SECONDS):
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


def _recover_now(session: str) -> int:
    from selfware_common.rpc import agent_pb2, agent_pb2_grpc

    with reach.calling("agent") as channel:
        stub = agent_pb2_grpc.AgentStub(channel)
        reply = stub.Recover(agent_pb2.RecoverRequest(session_id=session), timeout=checkpoints.LONG_SECONDS)
    if output.wants_json():
        output.emit(output.plain(reply))
    else:
        output.say(reply.sentence)
    return 0
