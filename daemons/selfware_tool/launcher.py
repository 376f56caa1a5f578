"""What oversightd calls: record an effect, launch its runner, wait for it, cancel it.

``prepare`` may be repeated with the same request, ``launch`` with anything: a second launch of an effect that began
does nothing. The runner is in a session of its own and keeps nothing of ours, so it lives on when we are killed.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

from . import lock
from .effect import EffectPaths, EffectState, EffectStatus, inspect
from .errors import ActionRefusedError, EffectChangedError, EffectIdError, UnsupportedActionError
from .files import replace_durably, sync_directory
from .plan import plan_for
from .refusal import RefusalError, UnsupportedKindError
from .request import PythonHome, Request
from .sandbox import is_within
from .workspace import require_workspace, resolve_cwd

EFFECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
BEGINNING_SECONDS = (0.0005, 0.001, 0.002, 0.005)  # until a new look for a runner that has not said its process id yet


def check(request: Request) -> None:
    """Raise unless the request can be run as far as can be told without running it."""
    if not EFFECT_ID.fullmatch(request.effect_id):
        raise EffectIdError(effect_id=repr(request.effect_id))
    try:
        workspace = require_workspace(request.workspace, request.forbidden)
        plan = plan_for(request.parse(), request.python, workspace)
        resolve_cwd(workspace, plan.cwd)
        _check_shown(request)
    except UnsupportedKindError as error:
        raise UnsupportedActionError(kind=str(error)) from error
    except RefusalError as error:
        raise ActionRefusedError(reason=f"{error}.") from error


def prepare(effects_directory: Path, request: Request) -> Path:
    """Record the request durably; the effect's directory. Does nothing if the same request is recorded already."""
    check(request)
    directory = effects_directory / request.effect_id
    paths = EffectPaths(str(directory))
    wanted = request.seal()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(str(effects_directory))
    try:
        recorded = Path(paths.request).read_bytes()
    except FileNotFoundError:
        replace_durably(paths.request, wanted)
        return directory
    if recorded != wanted:
        raise EffectChangedError(effect_id=request.effect_id)
    return directory


def launch(effect_directory: Path) -> bool:
    """Start the runner unless the effect began before; whether it was started by this call. Takes about 2 ms."""
    paths = EffectPaths(str(effect_directory))
    with claimed(paths) as lock_fd:
        if lock_fd is None:
            return False
        with Path(paths.runner_log).open("ab") as log:
            _spawn(paths.directory, lock_fd, log.fileno())
        return True


@contextmanager
def claimed(paths: EffectPaths) -> Iterator[int | None]:
    """The effect's lock, taken, for whoever will run it; None if somebody runs it or it began before."""
    lock_fd = lock.open_lock(paths.lock)
    try:
        free = lock.take(lock_fd) and not Path(paths.started).exists() and not Path(paths.result).exists()
        yield lock_fd if free else None
    finally:
        os.close(lock_fd)


def wait(effect_directory: Path, timeout_seconds: float | None = None) -> EffectStatus:
    """The status once no runner is alive, or after the timeout whatever it is then. Sleeps on the process itself."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    pauses = _pauses()
    while True:
        status = inspect(effect_directory)
        left = None if deadline is None else deadline - time.monotonic()
        if status.state is not EffectState.RUNNING or (left is not None and left <= 0):
            return status
        pidfd = _runner(effect_directory)
        if pidfd < 0:
            time.sleep(next(pauses))
            continue
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(None if left is None else left * 1000)
        finally:
            os.close(pidfd)


async def wait_async(effect_directory: Path) -> EffectStatus:
    """The same for an event loop; cancel it freely."""
    pauses = _pauses()
    while (status := inspect(effect_directory)).state is EffectState.RUNNING:
        pidfd = _runner(effect_directory)
        if pidfd < 0:
            await asyncio.sleep(next(pauses))
            continue
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
    return status


def cancel(effect_directory: Path) -> bool:
    """Ask a running effect to stop; its result will say so. False if there is no runner to ask."""
    pidfd = _runner(effect_directory)
    if pidfd < 0:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def python_home() -> PythonHome:
    """The interpreter we run on, for use inside: a virtual environment needs its base to be seen as well."""
    executable = Path(sys.executable)
    real = executable.resolve()
    places = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, str(real.parent.parent)]
    directories = dict.fromkeys(str(place) for path in places for place in (Path(path), Path(path).resolve()))
    shown = tuple(path for path in directories if not is_within(path, "/usr"))
    return PythonHome(str(executable), shown, str(Path(sys.prefix) / "bin"))


def _pauses() -> Iterator[float]:
    return chain(BEGINNING_SECONDS, repeat(BEGINNING_SECONDS[-1]))


def _check_shown(request: Request) -> None:
    """What is shown read-only must not show our state either."""
    for path in (*request.python.directories, *request.read_only):
        for place in request.forbidden:
            if is_within(str(Path(place).resolve()), path):
                raise RefusalError(f"{path}, which actions may read, contains Selfware's own state in {place}")


def _spawn(directory: str, lock_fd: int, log_fd: int) -> None:
    """Through a shell that ends at once: the runner is then nobody's child, and leaves no zombie with us."""
    main = str(Path(__file__).with_name("__main__.py"))
    runner = [sys.executable, "-I", "-S", main, directory, str(lock_fd)]
    subprocess.run(
        ["/bin/sh", "-c", '"$@" & exit 0', "sh", *runner],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        cwd="/",
        env={"LANG": "C.UTF-8"},
        pass_fds=(lock_fd,),
        start_new_session=True,
    )


def _runner(effect_directory: Path) -> int:
    """A descriptor of the living runner's process, -1 if there is none that can be named."""
    paths = EffectPaths(str(effect_directory))
    pid = lock.holder(paths.lock)
    if pid is None:
        return -1
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    # The number could have passed to another process meanwhile: it did not if the lock's holder is still that one.
    if lock.is_held(paths.lock) and lock.holder(paths.lock) == pid:
        return pidfd
    os.close(pidfd)
    return -1
