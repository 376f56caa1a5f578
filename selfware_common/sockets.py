"""Unix sockets that cannot be stolen: a lock first, then a stale path is removed, then the bind, then the mode.

A second server on a live path silently takes it over, so the lock (held until the process dies, whatever kills it)
decides who serves. Peer identity comes from the kernel (SO_PEERCRED), never from the message.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfware_common.errors import AlreadyRunningError, DiskFullError

LISTEN_FDS_START = 3


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a Unix socket, as the kernel knows it at connect time."""

    pid: int
    uid: int
    gid: int


class InstanceLock:
    """Holds `<directory>/lock` for the life of the process. The kernel releases it on any death."""

    def __init__(self, directory: Path, daemon: str) -> None:
        """Raises AlreadyRunningError when another process holds it."""
        self._path = directory / "lock"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._take(daemon)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFullError(what=f"the lock of {daemon}", path=directory) from error
            raise

    def _take(self, daemon: str) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise AlreadyRunningError(daemon=daemon, pid=holder, path=self._path) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._fd)


def inherited(name: str, environ: Mapping[str, str] | None = None) -> socket.socket | None:
    """The listening socket that systemd made for us under this FileDescriptorName= (sd_listen_fds(3)), or None."""
    environ = os.environ if environ is None else environ
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if name not in names:
        return None
    descriptor = LISTEN_FDS_START + names.index(name)
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


NO_SPACE = frozenset({28, 122})  # ENOSPC, EDQUOT


def clear_stale(path: Path) -> bool:
    """Remove a socket left by a killed process; call only while holding the lock. True if there was one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def peer_of(connection: socket.socket) -> Peer:
    """SO_PEERCRED of a connected Unix socket (unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, gid = struct.unpack("3i", raw)
    return Peer(pid=pid, uid=uid, gid=gid)
