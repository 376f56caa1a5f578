"""Makes the sandbox of an action inside a tool unit: a mount and a process namespace on top of what systemd gave.

The unit (selfware-tool@.service) already has its own user, no network, a read-only system, private /tmp and /dev, no
capability and a system call filter. What a static unit cannot know is *which* workspace: so here everything becomes
read-only, our own directories disappear, and only this action's workspace is mounted writable. The action also gets
process ids of its own, so it can neither see nor signal the runner, and it can make no further namespace.

Not bubblewrap, because that needs pivot_root and a visible /proc/sys, which the unit's filter and ProcSubset=pid take
away: docs/decisions/0007. Speaks bubblewrap's status protocol ({"child-pid"}, {"exit-code"}), so the runner need not
know which of the two it watches.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

from .process import FIRST_TO_GO, swap_oom_score
from .request import Limits
from .sandbox import Mount, SandboxSpec, environment, gated

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x80000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 0x1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
SET_UP_FAILED = 125
_GATED = gated(())
STATE = "/var/lib/selfware"  # hidden, but for the workspace in it

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """struct mount_attr, mount_setattr(2)."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def start(spec: SandboxSpec, texts: dict[str, bytes], command: tuple[str, ...], stdin_fd: int, output_fd: int) -> int:
    """Fork the sandbox's monitor and return its process id. ``texts``: files to show, by their path below /run.

    The command runs under the limits of ``spec``; whatever fails before it runs is said on ``output_fd``, and then the
    status descriptor ends without an exit code.
    """
    runner = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = SET_UP_FAILED
    try:
        status = _monitor(spec, texts, command, stdin_fd, output_fd, runner)
    except OSError as error:
        _say(output_fd, f"the sandbox could not be made: {error.strerror}: {error.filename or ''}")
    finally:
        os._exit(status)


def hide_from_actions() -> None:
    """Nothing of this process can be read by another of its user: not its memory, not its descriptors."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def sync_filesystem(path: str) -> None:
    """syncfs(2) of the filesystem that holds ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(fd), path)
    finally:
        os.close(fd)


def _monitor(
    spec: SandboxSpec, texts: dict[str, bytes], command: tuple[str, ...], stdin_fd: int, output_fd: int, runner: int
) -> int:
    """Outside the namespaces: makes them, reports, and ends as the command did."""
    _die_with_parent()
    if os.getppid() != runner:
        return SET_UP_FAILED
    os.setsid()
    _reset_signals()
    uid, gid = os.getuid(), os.getgid()
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else our own /proc/self would belong to root
    swap_oom_score(FIRST_TO_GO)
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID), "new namespaces")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"/proc/self/{name}", text)
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready_read)
        _first_process(spec, texts, command, stdin_fd, output_fd, ready_write)
    os.close(ready_write)
    os.write(spec.status_fd, f'{{"child-pid": {child}}}\n'.encode())
    was_ready = os.read(ready_read, 1) == b"1"
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 128 - status if status < 0 else status
    if was_ready:
        os.write(spec.status_fd, f'{{"exit-code": {code}}}\n'.encode())
    return code


def _first_process(
    spec: SandboxSpec,
    texts: dict[str, bytes],
    command: tuple[str, ...],
    stdin_fd: int,
    output_fd: int,
    ready_fd: int,
) -> None:
    """Process 1 inside: mounts, starts the command, buries the dead, and ends with the command. Never returns."""
    status = SET_UP_FAILED
    try:
        _die_with_parent()
        _libc.prctl(_PR_SET_NAME, b"sandbox", 0, 0, 0)
        _mount_all(spec, texts)
        os.write(ready_fd, b"1")
        os.close(ready_fd)
        child = os.fork()
        if child == 0:
            _become(spec, command, stdin_fd, output_fd)
        os.close(stdin_fd)
        while True:
            pid, raw = os.wait()
            if pid == child:
                ended = os.waitstatus_to_exitcode(raw)
                status = 128 - ended if ended < 0 else ended
                break
    except OSError as error:
        _say(output_fd, f"the sandbox could not be made: {error.strerror}: {error.filename or ''}")
    finally:
        os._exit(status)


def _mount_all(spec: SandboxSpec, texts: dict[str, bytes]) -> None:
    shown = [Mount(spec.workspace, writable=True), *spec.pins]
    opened = [(mount, os.open(mount.path, os.O_PATH | os.O_CLOEXEC)) for mount in shown]
    _mount("", "/", "", _MS_SLAVE | _MS_REC)
    _set_read_only("/", recursive=True)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _write("/proc/sys/user/max_user_namespaces", "0")
    size = f"size={spec.limits.temporary_bytes}," if spec.limits.temporary_bytes else ""
    for path in ("/tmp", "/dev/shm", "/var/tmp"):  # noqa: S108 - the sandbox's own
        _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, f"{size}mode=1777")
    os.mkdir("/tmp/home", 0o700)  # noqa: S108
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64m,mode=0755")
    for path, content in texts.items():
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    _mount("tmpfs", STATE, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    os.makedirs(spec.workspace, 0o755, exist_ok=True)
    for mount, fd in opened:
        _mount(f"/proc/self/fd/{fd}", mount.path, "", _MS_BIND | _MS_REC)
        _set_read_only(mount.path, on=not mount.writable)
        os.close(fd)
    for path in ("/proc", "/run", STATE):
        _set_read_only(path)


def _become(spec: SandboxSpec, command: tuple[str, ...], stdin_fd: int, output_fd: int) -> None:
    """The command itself; exec takes the last capabilities away. Never returns."""
    try:
        os.setsid()
        for source, target in ((stdin_fd, 0), (output_fd, 1), (output_fd, 2)):
            os.dup2(source, target)
        os.umask(0o007)
        os.chdir(spec.cwd)
        _limit(spec.limits)
        _exec(command, {**environment(spec), **_GIT_TRUST, "PWD": spec.cwd})
    except OSError as error:
        _say(output_fd, f"{command[0]}: {error.strerror}")
    finally:
        os._exit(SET_UP_FAILED)


def _limit(limits: Limits) -> None:
    """As ``sandbox.limited`` does it, without a program for it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, amount in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
    ):
        if amount:
            resource.setrlimit(kind, (amount, amount))


def _exec(command: tuple[str, ...], env: dict[str, str]) -> None:
    """Become the command. A gated one is let through here, which saves the 2 ms that a shell takes to begin; what
    cannot be executed is left to the shell all the same, for its words and its status."""
    if command[: len(_GATED)] != _GATED:
        os.execve(command[0], command, env)
    argv = command[len(_GATED) :]
    while (letter := os.read(0, 1)) != b"\n":
        if not letter:
            os._exit(SET_UP_FAILED)
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    with suppress(OSError):
        os.execvpe(argv[0], argv, env)
    os.execve("/bin/sh", ["/bin/sh", "-c", 'exec "$@"', "sh", *argv], env)


# The workspace was made by the operator, so git would refuse it to the tool's user. What makes git run programs in it
# is guarded by the pins (workspace.py).
_GIT_TRUST = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [(word.encode() or None) for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), target)


def _set_read_only(path: str, *, on: bool = True, recursive: bool = False) -> None:
    attributes = _MountAttr(_READ_ONLY if on else 0, 0 if on else _READ_ONLY, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    done = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), size)
    _check(done, path)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _say(fd: int, sentence: str) -> None:
    try:
        os.write(fd, f"{sentence}\n".encode())
    except OSError:
        sys.stderr.write(f"{sentence}\n")
