"""The lock that says an effect's runner is alive.

An open-file-description lock, not flock: it can be *asked about* without being taken, so looking at an effect never
gets in the way of starting it. Like flock it is inherited: the launcher takes it and hands it to the runner, so there
is no moment between the two in which a second launch could slip in. The kernel drops it with the last process that
holds the descriptor, however that process ends.

The file holds the runner's process id as decimal text; it is empty until the runner has begun.
"""

from __future__ import annotations

import fcntl
import os
import struct

_FLOCK = "@hhqqi4x"  # short type, short whence, off_t start, off_t length, pid_t pid


def open_lock(path: str) -> int:
    """The lock file's descriptor, not locked; the caller closes it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(fd: int) -> bool:
    """Lock it, without waiting; False if somebody else holds it. Forgets the process id of an earlier holder."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    os.ftruncate(fd, 0)
    return True


def sign(fd: int) -> None:
    """Write down who holds it."""
    os.pwrite(fd, str(os.getpid()).encode(), 0)


def is_held(path: str) -> bool:
    """Whether a runner (or a launcher about to become one) lives. Takes nothing."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))
        return bool(answer[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def holder(path: str) -> int | None:
    """The runner's process id, None while it has not written it. Means nothing unless the lock is held."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, 32)
    finally:
        os.close(fd)
    return int(text) if text.isdigit() else None
