"""What an action inside a tool unit sees: the mounts of its namespace, and the system calls that make them.

First everything becomes read-only and the places that every action has anew are made (``prepare``); that needs no
knowledge of the action and is done before it comes. Then its workspace appears, writable, where our own state is hidden
(``show``).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

from .sandbox import Mount

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 0x2, 0x4, 0x8, 0x20
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 0x1000, 0x4000, 0x40000, 0x80000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 0x1
STATE = "/var/lib/selfware"  # hidden, but for the workspace in it
TEMPORARY = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - the sandbox's own

libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """struct mount_attr, mount_setattr(2)."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def prepare(temporary_bytes: int) -> None:
    """What is the same for every action. Needs new user, mount and process namespaces."""
    _mount("", "/", "", _MS_SLAVE | _MS_REC)
    _set_read_only("/", recursive=True)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    write("/proc/sys/user/max_user_namespaces", "0")
    for path in TEMPORARY:
        _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, _temporary(temporary_bytes))
    os.mkdir("/tmp/home", 0o700)  # noqa: S108
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64m,mode=0755")


def resize_temporary(temporary_bytes: int) -> None:
    """Another size than it was prepared with."""
    for path in TEMPORARY:
        _mount("tmpfs", path, "tmpfs", _MS_REMOUNT | _MS_NOSUID | _MS_NODEV, _temporary(temporary_bytes))


def show(workspace: str, pins: Sequence[Mount], texts: Mapping[str, bytes]) -> None:
    """What is this action's own. ``texts``: files to show, by their path below /run."""
    # What was mounted on the machine since we prepared has come along, writable; from now on nothing comes any more.
    _mount("", "/", "", _MS_PRIVATE | _MS_REC)
    _set_read_only("/", recursive=True)
    for path in (*TEMPORARY, "/run"):
        _set_read_only(path, on=False)
    shown = [Mount(workspace, writable=True), *pins]
    opened = [(mount, os.open(mount.path, os.O_PATH | os.O_CLOEXEC)) for mount in shown]
    for path, content in texts.items():
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    _mount("tmpfs", STATE, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    os.makedirs(workspace, 0o755, exist_ok=True)
    for mount, fd in opened:
        _mount(f"/proc/self/fd/{fd}", mount.path, "", _MS_BIND | _MS_REC)
        _set_read_only(mount.path, on=not mount.writable)
        os.close(fd)
    for path in ("/proc", "/run", STATE):
        _set_read_only(path)


def sync_filesystem(path: str) -> None:
    """syncfs(2) of the filesystem that holds ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check(libc.syncfs(fd), path)
    finally:
        os.close(fd)


def check(result: int, what: str) -> None:
    """OSError about ``what`` for a system call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def write(path: str, text: str) -> None:
    """In one system call, as the kernel's files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _temporary(size_bytes: int) -> str:
    return f"size={size_bytes or '100%'},mode=1777"


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [(os.fsencode(word) or None) for word in (source, target, kind)]
    check(libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), target)


def _set_read_only(path: str, *, on: bool = True, recursive: bool = False) -> None:
    attributes = _MountAttr(_READ_ONLY if on else 0, 0 if on else _READ_ONLY, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    name = os.fsencode(path)
    check(libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, name, flags, ctypes.byref(attributes), size), path)
