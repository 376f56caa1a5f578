"""`status`: one line per daemon, then what a person should know first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import click

from selfware_common import escalations, paths
from selfware_common.errors import SelfwareError, UnreachableError
from selfware_common.escalations import Escalation
from selfwarectl import machine, output, reach

DAEMONS = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")
QUICK_SECONDS = 3.0


@dataclass(frozen=True)
class Component:
    """One part of a daemon that is checked on its own."""

    name: str
    state: str
    severity: str
    reason: str
    failures: int
    since_unix_nanos: int


@dataclass(frozen=True)
class State:
    """One daemon as seen from here. Without a pid the sentence says why there is none."""

    name: str
    pid: int = 0
    started_unix_nanos: int = 0
    version: str = ""
    sentence: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    health: str = "unknown"
    components: tuple[Component, ...] = ()

    @property
    def running(self) -> bool:
        """It answered."""
        return self.pid > 0


@click.command()
@output.json_option
def status() -> int:
    """Show what every daemon is doing and how it is, the pressure, open questions and whether work is paused.

    A daemon is unhealthy when a part fails that it cannot work without, degraded when another one does; the parts
    that are not well are listed below it, with the reason.

    Exit status 3 when no daemon answers.

    \b
    Examples:
      selfwarectl status
      selfwarectl status --json | jq -r '.daemons[] | select(.running | not) | .name'
    """
    states = [ask(name) for name in DAEMONS]
    pressure, paused, pending = _pressure(), _paused(), _pending()
    if output.wants_json():
        daemons = [{**asdict(state), "running": state.running} for state in states]
        told = {"daemons": daemons, "pressure": pressure, "paused": paused, "pending_approvals": pending}
        output.emit({**told, "gave_up": [asdict(one) for one in _gave_up(states)]})
    else:
        _print(states, pressure, paused, pending)
        for one in _gave_up(states):
            output.say(f"{one.unit} failed for good ({one.reason}): 'sudo selfwarectl start' brings it back")
    return 0 if any(state.running for state in states) else 3


def ask(name: str) -> State:
    """One daemon's own words; never raises for a daemon that is not there."""
    from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc

    try:
        with reach.calling(name) as channel:
            stub = daemon_pb2_grpc.DaemonStub(channel)
            reply = stub.Status(daemon_pb2.StatusRequest(), timeout=QUICK_SECONDS)
    except UnreachableError as error:
        return State(name, sentence=_why(error))
    except SelfwareError as error:
        return State(name, sentence=error.sentence)
    components = tuple(
        Component(one.name, one.state, one.severity, one.reason, one.failures, one.since_unix_nanos)
        for one in reply.components
    )
    return State(
        name, reply.pid, reply.started_unix_nanos, reply.version, reply.sentence, dict(reply.facts),
        reply.health or "unknown", components,
    )  # fmt: skip


def _gave_up(states: list[State]) -> list[Escalation]:
    """What systemd gave up on and is not back."""
    back = {f"selfware-{state.name}.service" for state in states if state.running}
    return [one for one in escalations.read(paths.from_environment()) if one.unit not in back]


def _why(error: UnreachableError) -> str:
    reason = str(error.fields.get("reason", "permission denied for this user"))
    return "not running" if reason in ("it is not running", "nobody answers there") else f"not reachable: {reason}"


def _pressure() -> str:
    try:
        return machine.pressure_word(machine.read_resources())
    except SelfwareError:
        return "unknown"


def _paused() -> dict[str, Any] | None:
    try:
        told = reach.operator("GET", "/status", seconds=QUICK_SECONDS)
    except SelfwareError:
        return None
    control = told.get("control") if isinstance(told.get("control"), dict) else told
    reason, restoring = (str(control.get(name) or "") for name in ("pause_reason", "restoring"))
    return {"paused": bool(control.get("paused")), "reason": reason, "restoring": restoring}


def _pending() -> int | None:
    from selfwarectl import approvals

    try:
        return len(approvals.fetch("pending"))
    except SelfwareError:
        return None


def _print(states: list[State], pressure: str, paused: dict[str, Any] | None, pending: int | None) -> None:
    rows = [
        (
            state.name,
            state.pid or "-",
            output.since(state.started_unix_nanos) or "-",
            state.health if state.running else "-",
            state.sentence,
        )
        for state in states
    ]
    output.table(("DAEMON", "PID", "UP", "HEALTH", "DOING"), rows)
    for state in states:
        for part in (one for one in state.components if one.state != "healthy"):
            for_long = output.since(part.since_unix_nanos)
            output.say(f"{state.name}: {part.name} is {part.state} ({part.severity}) for {for_long}: {part.reason}")
    output.say("")
    output.say(f"pressure: {pressure}")
    if paused is not None:
        reason = f" ({paused['reason']})" if paused["reason"] else ""
        ends = "it goes on when that is done" if paused["restoring"] else "'selfwarectl resume' goes on"
        output.say(f"paused: yes{reason}; {ends}" if paused["paused"] else "paused: no")
    if pending:
        output.say(f"questions for you: {pending}; 'selfwarectl approvals ls' shows them")
    elif pending == 0:
        output.say("questions for you: none")
