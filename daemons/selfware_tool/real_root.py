"""Runs a command with the present root directory as a real root: `python3 -m selfware_tool.real_root CMD...`.

In a plain chroot the kernel makes no user namespace, so no sandbox can be had there. Root can mend that: in a mount
namespace of its own, the directory that chroot(2) only pointed at becomes what the namespace begins with (pivot_root).
Elsewhere, or without the right to do it, the command simply runs as it is; `selfwarectl doctor` then says what is
missing. Uses nothing but the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # syscall numbers
MAX_DEPTH = 200


def in_plain_chroot() -> bool:
    """Whether our root directory is not the mount at the top of our mount namespace."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return not Path("/proc/self").exists()  # a bare chroot: nobody mounted /proc there
    return not any(line.split()[4] == "/" for line in mounts)


def become_real_root() -> None:
    """Make the present root the root of a new mount namespace. Raises OSError; harmless to others."""
    here = os.getcwd()
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare(CLONE_NEWNS), "unshare")
    inner = os.open("/", os.O_PATH | os.O_DIRECTORY)
    _climb()
    _call(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
    os.fchdir(inner)
    path = os.getcwd().encode()  # where the chroot lies, seen from the namespace's root
    _call(libc.mount(path, path, None, MS_BIND | MS_REC, None), "bind")
    os.chdir(path)
    _call(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _call(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")
    os.chroot("/")
    os.close(inner)
    if not Path("/proc/self").exists():
        _call(libc.mount(b"proc", b"/proc", b"proc", 0, None), "mount /proc")
    os.chdir(here)


def _climb() -> None:
    """From the chroot to the root of the mount namespace: a process whose working directory lies outside its root."""
    outside = os.open("/", os.O_PATH | os.O_DIRECTORY)
    below = next(name for name in ("/tmp", "/usr", "/etc") if os.path.isdir(name))  # noqa: S108 - any directory
    os.chroot(below)
    os.fchdir(outside)
    os.close(outside)
    for _ in range(MAX_DEPTH):
        os.chdir("..")
    os.chroot(".")


def _call(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def main(argv: Sequence[str]) -> int:
    """Replace this process by the command."""
    if not argv:
        sys.stderr.write("usage: python3 -m selfware_tool.real_root COMMAND [ARGUMENT...]\n")
        return 2
    if os.geteuid() == 0 and in_plain_chroot():
        try:
            become_real_root()
        except OSError as error:
            sys.stderr.write(f"cannot make this chroot a real root ({error}): actions will have no sandbox here\n")
    return os.execvp(argv[0], list(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
