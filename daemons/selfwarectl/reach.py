"""How the command line reaches the daemons: blocking gRPC to their sockets, HTTP to oversightd's operator.sock.

A daemon that is not there is an answer, not something to wait for. Every failure becomes one of our errors, whose exit
status says whether it could not be reached (3), refused (4), was asked wrongly (2) or failed (1). grpc is imported only
when a socket is there to talk to.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from selfware_common import paths
from selfware_common.errors import SelfwareError, UnreachableError, UsageError

if TYPE_CHECKING:
    import grpc

SECONDS = 10.0
GRPC_SOCKETS = {"oversightd": "agent.sock"}
"""Everybody else's is api.sock."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class FailedError(SelfwareError):
    """{reason}"""

    exit_code: ClassVar[int] = 1


class RefusedError(SelfwareError):
    """{reason}"""

    exit_code: ClassVar[int] = 4


class NoSuchIdError(SelfwareError):
    """There is no {what} {wanted}."""

    exit_code: ClassVar[int] = 1
    hint = "{command} shows them all."


class AmbiguousIdError(SelfwareError):
    """Several {what}s begin with {wanted}: {found}."""

    exit_code: ClassVar[int] = 2
    hint = "Give more of the id."


class NotReadyError(UnreachableError):
    """{reason}"""

    hint = ""


class NotPermittedError(UnreachableError):
    """Cannot reach {daemon} at {path}: permission denied for this user."""

    hint = "Operators are in the group selfware-operators: 'sudo adduser NAME selfware-operators', then log in again."


@contextmanager
def calling(daemon: str) -> Iterator[grpc.Channel]:
    """A channel to one daemon; gRPC errors inside become ours."""
    path = present(daemon, GRPC_SOCKETS.get(daemon, "api.sock"))
    import grpc

    from selfware_common import clients

    with clients.sync_channel(path) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise of_rpc(error, daemon, path) from None


def of_rpc(error: grpc.RpcError, daemon: str, path: Path) -> SelfwareError:
    """What a failed call means to a person."""
    from grpc import StatusCode

    code, details = error.code(), error.details() or ""
    if code is StatusCode.UNAVAILABLE and (not details or "connect" in details or "Socket closed" in details):
        return UnreachableError(daemon=f"selfware-{daemon}", path=path, reason="nobody answers there")
    if code is StatusCode.UNAVAILABLE:  # it answers, to say that it cannot yet, or no longer
        return NotReadyError(reason=details)
    if code is StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(daemon=f"selfware-{daemon}", path=path, reason="no answer in time")
    if code in (StatusCode.FAILED_PRECONDITION, StatusCode.PERMISSION_DENIED, StatusCode.ALREADY_EXISTS):
        return RefusedError(reason=details)
    if code is StatusCode.INVALID_ARGUMENT:
        return UsageError(problem=details)
    return FailedError(reason=details or f"selfware-{daemon} answered {code.name}")


def operator(method: str, target: str, body: dict[str, Any] | None = None, seconds: float = SECONDS) -> Any:
    """One HTTP request to oversightd, which knows from the kernel who we are; the decoded JSON of its answer."""
    path = present("oversightd", "operator.sock")
    connection = _UnixConnection(path, seconds)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, target, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        status, text = answer.status, answer.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        raise UnreachableError(daemon="selfware-oversightd", path=path, reason=reason) from None
    finally:
        connection.close()
    return _answer(status, text, f"{method} {target}")


def find(wanted: str, known: Sequence[str], what: str, command: str) -> str:
    """The one id that is, or begins with, or (a bare number) ends as `wanted` says."""
    if wanted in known:
        return wanted
    if wanted.isdigit():
        numbered = [one for one in known if one.rpartition("-")[2].lstrip("0") == wanted.lstrip("0")]
        if len(numbered) == 1:
            return numbered[0]
    found = [one for one in known if one.startswith(wanted)] if wanted else []
    if len(found) > 1:
        raise AmbiguousIdError(what=what, wanted=wanted, found=", ".join(found[:5]))
    if not found:
        raise NoSuchIdError(what=what, wanted=wanted, command=command)
    return found[0]


def _answer(status: int, text: bytes, what: str) -> Any:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        raise FailedError(reason=f"selfware-oversightd answered {what} with status {status} and no JSON") from None
    if status < 400:
        return value
    told = value.get("error") if isinstance(value, dict) else None
    told = told if isinstance(told, dict) else {}
    said = str(told.get("sentence") or f"selfware-oversightd answered {what} with status {status}")
    reason = f"{said} {told.get('hint') or ''}".strip()
    if status in (403, 409):
        raise RefusedError(reason=reason)
    if status == 400:
        raise UsageError(problem=reason)
    raise FailedError(reason=reason)


def present(daemon: str, name: str) -> Path:
    """The path of a daemon's socket that is there and may be opened; UnreachableError, NotPermittedError."""
    path = paths.from_environment().socket_of(daemon, name)
    try:
        exists = path.exists()
    except PermissionError:
        exists = True
    if not exists:
        raise UnreachableError(daemon=f"selfware-{daemon}", path=path, reason="it is not running")
    if not os.access(path, os.W_OK):
        raise NotPermittedError(daemon=f"selfware-{daemon}", path=path)
    return path


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
