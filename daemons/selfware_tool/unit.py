"""The main program of a tool unit (selfware-tool@.service): waits for one request on its connection, runs it, ends.

What is asked for is an action, or that a workspace be saved or put back (``keeper``).

Standard input is the connection that oversightd opened ahead of need, so Python and its imports are paid for before an
action comes. The request arrives with the effect's lock as a descriptor: from then on we are its runner, whatever
becomes of oversightd. The sandbox, too, is made while we wait. A connection that closes without a request was not
needed.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import struct
import sys

from selfware_common.record import Any

from . import journal
from .effect import EffectPaths, Result, read_output, started_record
from .mounts import sync_filesystem
from .namespaces import Sandbox, hide_from_actions, order_of
from .plan import Plan, plan_for
from .process import Running
from .repositories import survey
from .request import PythonHome, Request, unseal_request
from .runner import run_once, shown_texts
from .sandbox import SandboxSpec
from .workspace import resolve_workspace

MAX_REQUEST_BYTES = 64 * 1024 * 1024
HEADER = struct.Struct("<I")


def main() -> int:
    """The exit status is for people; the effect's files are the answer."""
    hide_from_actions()
    connection = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    if not _is_asked(connection):
        _rehearse()
    sandbox = Sandbox()
    received = receive(connection)
    if received is None:
        return 0
    message, lock_fd = received
    if "tree" in message:
        from .keeper import keep

        keep(connection, message, lock_fd)
        os._exit(0)
    directory = str(message["directory"])
    request = unseal_request(str(message["request"]).encode(), "the request")
    log = journal.Journal("selfware-tool", {"effect_id": request.effect_id, **message["labels"]})

    def start(spec: SandboxSpec, plan: Plan) -> Running:
        order = order_of(spec, shown_texts(plan), plan.command)
        if sandbox.take(order):
            return sandbox.running
        another = Sandbox()
        another.take(order)  # if that one is gone, too, its output says why
        return another.running

    run_once(request, EffectPaths(directory), lock_fd, start, lambda result: _report(log, request, result, directory))
    # Somebody waits for our end; the interpreter's own clearing up would cost them 10 ms.
    os._exit(0)


def _is_asked(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _rehearse() -> None:
    """Python runs code faster the second time, and a forked process copies what it touches: go through what an action
    needs as far as it leaves no trace, before anybody waits for it."""
    place, python = "/var/tmp", PythonHome(sys.executable, (), "")  # noqa: S108 - empty, the unit's own
    said = Request("rehearsal", {"run_command": {"argv": ["/bin/true"]}}, place, python).seal().decode()
    request = unseal_request(json.loads(json.dumps(said)).encode(), "the rehearsal")
    plan = plan_for(request.parse(), python, place)
    spec = SandboxSpec(resolve_workspace(place, ()), place, python, request.limits, request.features)
    order_of(spec, shown_texts(plan), plan.command)
    survey(place)
    started_record(0)
    gc.freeze()


def receive(connection: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Length (u32, little-endian) with the lock's descriptor beside it, then so many bytes of JSON."""
    data, fds, _flags, _address = socket.recv_fds(connection, HEADER.size, 1)
    if not fds:
        return None
    os.set_inheritable(fds[0], False)
    data += _read(connection, HEADER.size - len(data))
    (length,) = HEADER.unpack(data)
    if length > MAX_REQUEST_BYTES:
        raise ValueError(f"a request of {length} bytes")
    message = json.loads(_read(connection, length))
    return message, fds[0]


def _read(connection: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = connection.recv(length)
        if not part:
            sys.exit(0)  # oversightd died before it had said everything: nothing began, the lock goes with us
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _report(log: journal.Journal, request: Request, result: Result, directory: str) -> None:
    """What it printed, then how it ended, in the journal of this unit. What a command changed is on disk before its
    result is: a power cut must not take back what was acknowledged. (Our own file actions sync what they write.)"""
    if result.ran and not {"run_command", "run_code"}.isdisjoint(request.action):
        sync_filesystem(request.workspace)
    log.lines(read_output(directory))
    (kind,) = request.action
    log.say(f"{kind}: {result.sentence}", priority=6 if result.ok else 5)


if __name__ == "__main__":
    sys.exit(main())
