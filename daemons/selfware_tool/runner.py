"""Runs one effect, once. Everything about "once" is in ``main``; everything about "in a sandbox" in ``_perform``.

Order of events: lock, look, sandbox made, ``started`` durable, the action let go, ``result.json`` durable, end. A
runner killed at any point leaves either no ``started`` (nothing ran; launch again) or ``started`` without result
(unknown; never again). The sandbox can come first because whatever runs in it waits for its standard input.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from . import cgroup, lock
from .actions import Action
from .effect import EffectPaths, Result, started_record
from .files import MODE, create_durably, replace_durably, sync_directory
from .output import BoundedOutput
from .plan import INSIDE, Plan, plan_for
from .process import Running, SandboxFailedError, SandboxProcess, spawn
from .refusal import RefusalError
from .request import Request, unseal_request
from .sandbox import DataFile, SandboxSpec, SystemRoot, bwrap_argv
from .words import Ending
from .workspace import guard_git, require_workspace, resolve_cwd

EXIT_BUSY = 75  # EX_TEMPFAIL
SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

Start = Callable[[SandboxSpec, Plan], Running]
"""Starts a plan in a sandbox."""

Report = Callable[[Result], None]


def main(effect_directory: str, lock_fd: int = -1) -> int:
    """Run the effect unless it was begun before; the exit status is for people, the files are the answer."""
    paths = EffectPaths(os.path.abspath(effect_directory))
    if lock_fd < 0:
        lock_fd = lock.open_lock(paths.lock)
        if not lock.take(lock_fd):
            return EXIT_BUSY
    with open(paths.request, "rb") as file:
        request = unseal_request(file.read(), paths.request)
    if (result := run_once(request, paths, lock_fd, start_bubblewrap)) is None:
        return 0
    group = result[1]
    if group is not None:
        os.close(lock_fd)
        group.remove_after_us()
    return 0


def run_once(
    request: Request, paths: EffectPaths, lock_fd: int, start: Start, report: Report = lambda _: None
) -> tuple[Result, cgroup.ProcessGroup | None] | None:
    """The effect's result, durable; None if it had begun before. Needs its lock. ``report`` is told just before."""
    os.set_inheritable(lock_fd, False)
    if os.path.exists(paths.result) or os.path.exists(paths.started):
        return None
    cancel_fd = _cancellation()
    lock.sign(lock_fd)
    group = cgroup.enter(request.effect_id, request.limits.processes)
    result = _run(request, paths, start, cancel_fd)
    report(result)
    replace_durably(paths.result, result.seal())
    return result, group


def _run(request: Request, paths: EffectPaths, start: Start, cancel_fd: int) -> Result:
    started_unix_nanos = time.time_ns()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    output = BoundedOutput(os.open(paths.output, flags, MODE), request.limits.output_bytes)
    ending, sentence = None, ""

    def begin() -> None:
        if not create_durably(paths.started, started_record(started_unix_nanos)):
            raise FileExistsError(paths.started)  # nobody can have made it: we hold the lock, and looked
        sync_directory(os.path.dirname(paths.directory))  # costs nothing: the new name went to disk with ``started``

    try:
        ending, sentence = _perform(request, output, start, cancel_fd, begin)
    except RefusalError as error:
        sentence = f"not run: {error}"
    except SandboxFailedError:
        sentence = "not run: the sandbox could not be set up; the output says why"
    output.close()
    return Result(
        ran=ending is not None,
        exit_status=ending.status if ending else -1,
        signal=ending.signal_number if ending else 0,
        timed_out=bool(ending and ending.timed_out),
        cancelled=bool(ending and ending.cancelled),
        started_unix_nanos=started_unix_nanos,
        ended_unix_nanos=time.time_ns(),
        output_bytes=output.total_bytes,
        dropped_bytes=output.dropped_bytes,
        sentence=sentence,
    )


def _perform(
    request: Request, output: BoundedOutput, start: Start, cancel_fd: int, begin: Callable[[], None]
) -> tuple[Ending, str]:
    """Run the action in its sandbox; how it ended, as a value and in words. ``begin`` is the moment before it runs."""
    action: Action = request.parse()
    workspace = require_workspace(request.workspace, request.forbidden)
    plan = plan_for(action, request.python, workspace)
    guard = guard_git(workspace)
    try:
        spec = SandboxSpec(
            workspace=workspace,
            cwd=resolve_cwd(workspace, plan.cwd),
            python=request.python,
            limits=request.limits,
            features=request.features,
            pins=guard.pins,
            read_only=request.read_only,
            env=plan.env,
            network=request.network,
        )
        process = SandboxProcess(_start(spec, plan, start), cancel_fd)
        timeout_seconds = request.timeout_seconds()
        room = Room(workspace, request.limits.reserve_bytes)
        begin()
        ending = process.watch(plan.stdin, output, timeout_seconds, request.limits.grace_seconds, room.is_left)
    finally:
        removed = guard.clean()
    sentence = ending.sentence(timeout_seconds)
    return ending, f"{sentence}; removed {', '.join(removed)}, which it had planted" if removed else sentence


class Room:
    """Whether the filesystem of a workspace keeps a reserve: so much, or half of what was free at first if less."""

    def __init__(self, path: str, reserve_bytes: int) -> None:
        self._path = path
        self._reserve = min(reserve_bytes, self._free() // 2)

    def is_left(self) -> bool:
        """Asked again and again while the action runs."""
        return self._free() >= self._reserve

    def _free(self) -> int:
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize


def _start(spec: SandboxSpec, plan: Plan, start: Start) -> Running:
    try:
        return start(spec, plan)
    except (OSError, UnicodeEncodeError) as error:  # nothing has run: the kernel takes no more than 128 KiB a word
        why = error.strerror if isinstance(error, OSError) else "it is not valid Unicode"
        raise RefusalError(f"the command cannot be started: {why}") from error


def start_bubblewrap(spec: SandboxSpec, plan: Plan) -> Running:
    """The sandbox where systemd made none: everything is bubblewrap's."""
    status_read, status_write = os.pipe()
    stdin_read, stdin_write = os.pipe()
    output_read, output_write = os.pipe()
    uid, gid = os.getuid(), os.getgid()
    texts = {
        "/etc/passwd": f"selfware:x:{uid}:{gid}:Selfware:/tmp/home:/bin/sh\n".encode(),
        "/etc/group": f"selfware:x:{gid}:\n".encode(),
        "/etc/hosts": b"127.0.0.1 localhost sandbox\n::1 localhost\n",
        **shown_texts(plan),
    }
    files = tuple(DataFile(_memory_file(content), path) for path, content in texts.items())
    argv = bwrap_argv(spec._replace(files=files, system=_system_root(), status_fd=status_write), plan.command)
    try:
        pid = spawn(argv, [status_write, *(file.fd for file in files)], stdin_read, output_write)
    finally:
        for fd in (status_write, stdin_read, output_write, *(file.fd for file in files)):
            os.close(fd)
    return Running(pid, stdin_write, output_read, status_read)


def shown_texts(plan: Plan) -> dict[str, bytes]:
    """What appears inside as files, by path: the action's text, our file tool."""
    texts = dict(plan.texts)
    if plan.needs_inside:
        with open(os.path.join(os.path.dirname(__file__), "inside.py"), "rb") as file:
            texts[INSIDE] = file.read()
    return texts


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("selfware-tool", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _system_root() -> SystemRoot:
    links, directories = [], []
    for path in SYSTEM_LINKS:
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path):
            directories.append(path)
    return SystemRoot(tuple(links), tuple(directories))


def _cancellation() -> int:
    """A descriptor that becomes readable when somebody sends us SIGTERM."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    return read_fd
