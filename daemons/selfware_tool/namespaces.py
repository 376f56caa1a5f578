"""Makes the sandbox of an action inside a tool unit: a mount and a process namespace on top of what systemd gave.

The unit (selfware-tool@.service) already has its own user, no network, a read-only system, private /tmp and /dev, no
capability and a system call filter. What a static unit cannot know is *which* workspace: so here everything becomes
read-only, our own directories disappear, and only this action's workspace is mounted writable. The action also gets
process ids of its own, so it can neither see nor signal the runner, and it can make no further namespace.

The sandbox is made while the unit waits: the action then costs what is its own. Not bubblewrap, because that needs
pivot_root and a visible /proc/sys, which the unit's filter and ProcSubset=pid take away: docs/decisions/0007. Speaks
bubblewrap's status protocol ({"child-pid"}, {"exit-code"}), so the runner need not know which of the two it watches.

    runner ── monitor (outside; makes the namespaces, reports) ── first process (inside) ── the command
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable

from selfware_common.record import Any, NoReturn

from . import mounts
from .mounts import libc
from .process import FIRST_TO_GO, Running, swap_oom_score
from .request import Limits
from .sandbox import Mount, SandboxSpec, environment, gated

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_LENGTH = struct.Struct("<I")
_GATED = gated(())
SET_UP_FAILED = 125


def hide_from_actions() -> None:
    """Nothing of this process can be read by another of its user: not its memory, not its descriptors."""
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def order_of(spec: SandboxSpec, texts: dict[str, bytes], command: tuple[str, ...]) -> bytes:
    """What a sandbox has to know of its action. ``texts``: files to show, by their path below /run.

    Raises UnicodeEncodeError for words that no command line can hold. (Names in the workspace may be any bytes.)
    """
    env = {**environment(spec), **_GIT_TRUST, "PWD": spec.cwd}
    for word in (*command, *env.values()):
        os.fsencode(word)
    order = {
        "workspace": spec.workspace,
        "pins": spec.pins,
        "texts": {path: content.decode("latin-1") for path, content in texts.items()},
        "limits": spec.limits,
        "cwd": spec.cwd,
        "env": env,
        "command": command,
    }
    data = json.dumps(order).encode("ascii")
    return _LENGTH.pack(len(data)) + data


class Sandbox:
    """One sandbox, forked and waiting; ``take`` gives it its action. It dies with us."""

    def __init__(self) -> None:
        ours, theirs = [], []
        for we_read in (True, True, False, False):  # status, output; standard input, orders
            read_fd, write_fd = os.pipe()
            ours.append(read_fd if we_read else write_fd)
            theirs.append(write_fd if we_read else read_fd)
        status_fd, output_fd, stdin_fd, self._orders = ours
        runner = os.getpid()
        pid = os.fork()
        if not pid:
            _in_child(lambda: _monitor(runner, *theirs), theirs[1])
        for fd in theirs:
            os.close(fd)
        # Whatever fails before the command runs is said on the output, and the status ends without an exit code.
        self.running = Running(pid, stdin_fd, output_fd, status_fd)

    def take(self, order: bytes) -> bool:
        """Begin; once. False if it is gone, perhaps when memory ran out: an order that did not arrive whole is none."""
        left = memoryview(order)
        try:
            while left:
                left = left[os.write(self._orders, left) :]
        except BrokenPipeError:
            return False
        finally:
            os.close(self._orders)
        return True


def _in_child(work: Callable[[], int], output_fd: int) -> None:
    """Never returns."""
    status = SET_UP_FAILED
    try:
        status = work()
    except OSError as error:
        _say(output_fd, f"the sandbox could not be made: {error.strerror}: {error.filename or ''}")
    finally:
        os._exit(status)


def _monitor(runner: int, status_fd: int, output_fd: int, stdin_fd: int, orders_fd: int) -> int:
    """Outside the namespaces: makes them, reports, and stays until the runner has ended.

    Somebody waits for that end, and the last process in a mount namespace takes it down before it is seen to end: 2 ms.
    So we keep the runner's, and stay in the action's.
    """
    _die_with_parent()
    if os.getppid() != runner:
        return SET_UP_FAILED
    _close_all_but(status_fd, output_fd, stdin_fd, orders_fd)
    os.setsid()
    _reset_signals()
    os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    uid, gid = os.getuid(), os.getgid()
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else our own /proc/self would belong to root
    mounts.check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID), "new namespaces")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        mounts.write(f"/proc/self/{name}", text)
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        _close_all_but(output_fd, stdin_fd, orders_fd, ready_write)
        _in_child(lambda: _first_process(output_fd, stdin_fd, orders_fd, ready_write), output_fd)
    for fd in (ready_write, stdin_fd, output_fd, orders_fd):
        os.close(fd)
    os.write(status_fd, f'{{"child-pid": {child}}}\n'.encode())
    was_ready = os.read(ready_read, 1) == b"1"
    code = _status_of(os.waitpid(child, 0)[1])
    if not was_ready:
        return code
    os.write(status_fd, f'{{"exit-code": {code}}}\n'.encode())
    while True:
        signal.pause()


def _first_process(output_fd: int, stdin_fd: int, orders_fd: int, ready_fd: int) -> int:
    """Process 1 inside: mounts, starts who will become the command, buries the dead, and ends with the command."""
    _die_with_parent()
    libc.prctl(_PR_SET_NAME, b"sandbox", 0, 0, 0)
    swap_oom_score(FIRST_TO_GO)  # not the monitor: without it nobody knows how the command ended
    prepared_bytes = Limits().temporary_bytes
    mounts.prepare(prepared_bytes)
    child = os.fork()
    if child == 0:
        _in_child(lambda: _await_order(output_fd, stdin_fd, orders_fd, ready_fd, prepared_bytes), output_fd)
    for fd in (stdin_fd, output_fd, orders_fd, ready_fd):
        os.close(fd)
    while True:
        pid, raw = os.wait()
        if pid == child:
            return _status_of(raw)


def _await_order(output_fd: int, stdin_fd: int, orders_fd: int, ready_fd: int, prepared_bytes: int) -> NoReturn:
    """Mounts what is the action's own, and becomes its command."""
    if (order := _order(orders_fd)) is None:
        os._exit(0)  # no action came
    limits = Limits(*order["limits"])
    if limits.temporary_bytes != prepared_bytes:
        mounts.resize_temporary(limits.temporary_bytes)
    texts = {path: content.encode("latin-1") for path, content in order["texts"].items()}
    mounts.show(order["workspace"], [Mount(*pin) for pin in order["pins"]], texts)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    _become(order, limits, stdin_fd, output_fd)


def _order(orders_fd: int) -> dict[str, Any] | None:
    with open(orders_fd, "rb") as file:
        head = file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        data = file.read(length)
    order: dict[str, Any] | None = json.loads(data) if len(data) == length else None
    return order


def _become(order: dict[str, Any], limits: Limits, stdin_fd: int, output_fd: int) -> NoReturn:
    """The command itself; exec takes the last capabilities away. Never returns."""
    try:
        os.setsid()
        for source, target in ((stdin_fd, 0), (output_fd, 1), (output_fd, 2)):
            os.dup2(source, target)
        os.umask(0o007)
        os.chdir(order["cwd"])
        _limit(limits)
        _exec(tuple(order["command"]), order["env"])
    except OSError as error:
        _say(output_fd, f"{order['command'][0]}: {error.strerror}")
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
    try:
        os.execvpe(argv[0], argv, env)
    except OSError:
        os.execve("/bin/sh", ["/bin/sh", "-c", 'exec "$@"', "sh", *argv], env)


# The workspace was made by the operator, so git would refuse it to the tool's user. What makes git run programs in it
# is guarded by the pins (workspace.py).
_GIT_TRUST = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}


def _status_of(raw: int) -> int:
    status = os.waitstatus_to_exitcode(raw)
    return 128 - status if status < 0 else status


def _die_with_parent() -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _close_all_but(*kept: int) -> None:
    """Descriptors of the runner have no business inside: the connection, the effect's lock."""
    low = 3
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _say(fd: int, sentence: str) -> None:
    try:
        os.write(fd, f"{sentence}\n".encode())
    except OSError:
        sys.stderr.write(f"{sentence}\n")
