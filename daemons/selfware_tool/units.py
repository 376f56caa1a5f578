"""What oversightd calls under systemd: have an effect run in a unit of its own (selfware-tool@.service).

systemd listens on tool.sock and makes a unit of every connection. Connections are opened ahead of need, so that an
action finds its sandbox ready: 2-7 ms instead of 70. The request and the effect's lock travel over the connection; from
then on everything is told by the effect's directory, exactly as with ``launcher``: the unit outlives us, and a second
launch of an effect that began does nothing.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from .effect import EffectPaths
from .launcher import check, claimed
from .probe import Probe
from .request import Request

HEADER = struct.Struct("<I")
CONNECT_SECONDS = 5.0


class Units:
    """Owns the connections that were opened ahead; ``close`` lets their units end."""

    def __init__(self, socket_path: Path, ahead: int = 2) -> None:
        """``ahead``: how many units wait for an action."""
        self._path = str(socket_path)
        self._ahead = ahead
        self._waiting: list[socket.socket] = []

    def probe(self) -> Probe:
        """Whether there is somebody to run an action, in words."""
        try:
            self.prepare_ahead()
        except OSError as error:
            return Probe(
                False,
                f"selfware-tool.socket does not answer at {self._path}: {error.strerror}.",
                "Start it: systemctl start selfware-tool.socket.",
            )
        return Probe(True, "each action runs in a systemd unit of its own")

    def prepare_ahead(self) -> None:
        """Open what is missing of the connections; OSError if systemd does not listen."""
        for connection in [one for one in self._waiting if not _is_open(one)]:
            self._waiting.remove(connection)
            connection.close()
        while len(self._waiting) < self._ahead:
            self._waiting.append(self._connect())

    def launch(self, effect_directory: Path, request: Request, labels: Mapping[str, str]) -> bool:
        """Hand the effect to a unit, unless it began before; whether this call did so.

        Raises ActionRefusedError for a request that cannot be run, and OSError if there is no unit to be had.
        """
        check(request)
        _make(effect_directory)
        paths = EffectPaths(str(effect_directory))
        with claimed(paths) as lock_fd:
            if lock_fd is None:
                return False
            self._send(lock_fd, paths.directory, request, labels)
            return True

    def connection(self) -> socket.socket:
        """A unit for something else than an action (``keeper``), the caller's to close; OSError if there is none."""
        return self._take()

    def close(self) -> None:
        """Units that wait for an action end; those that run one do not notice."""
        for connection in self._waiting:
            connection.close()
        self._waiting.clear()

    def _send(self, lock_fd: int, directory: str, request: Request, labels: Mapping[str, str]) -> None:
        message = {"directory": directory, "labels": dict(labels), "request": request.seal().decode("ascii")}
        data = json.dumps(message).encode("ascii")
        connection = self._take()
        try:
            connection.settimeout(CONNECT_SECONDS)
            whole = HEADER.pack(len(data)) + data
            sent = socket.send_fds(connection, [whole], [lock_fd])
            connection.sendall(memoryview(whole)[sent:])
        finally:
            connection.close()

    def _take(self) -> socket.socket:
        while self._waiting:
            connection = self._waiting.pop(0)
            if _is_open(connection):
                return connection
            connection.close()
        return self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection


def _is_open(connection: socket.socket) -> bool:
    """A unit says nothing until it is asked: anything to read means that it ended."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLHUP)
    return not poll.poll(0)


def _make(directory: Path) -> None:
    """The runner is another user of the same group: it writes there, we read."""
    directory.mkdir(parents=True, exist_ok=True)
    if directory.stat().st_uid == os.geteuid():
        directory.chmod(0o770)
