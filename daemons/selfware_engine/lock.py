"""The lock beside an engine's socket: one engine per socket, and a socket that a killed engine left may be removed.

``<socket>.lock`` is held for as long as anything of the engine lives; the kernel lets go of it at any death. Where an
engine leaves processes behind (vLLM), its guard holds the lock too, so that the next engine waits until they are gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from selfware_common.errors import AlreadyRunningError, SocketPathTooLongError
from selfware_common.paths import UNIX_PATH_LIMIT_BYTES

LEFTOVER_SECONDS = 20.0
LOOK_SECONDS = 0.05


def take(socket_path: Path) -> int:
    """Open and lock for the life of the process; the descriptor. Raises AlreadyRunningError when an engine lives."""
    if (length := len(os.fsencode(socket_path))) > UNIX_PATH_LIMIT_BYTES:
        raise SocketPathTooLongError(path=socket_path, length=length, limit=UNIX_PATH_LIMIT_BYTES)
    socket_path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    path = socket_path.with_name(socket_path.name + ".lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    patience_ends = time.monotonic() + LEFTOVER_SECONDS
    while not _locked(lock):
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        if _alive(holder) or time.monotonic() > patience_ends:
            os.close(lock)
            raise AlreadyRunningError(daemon="selfware-engine", pid=holder or "unknown", path=path)
        time.sleep(LOOK_SECONDS)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: str) -> bool:
    """Whether the engine itself lives, and not only what it left; unknown counts as alive."""
    if not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
