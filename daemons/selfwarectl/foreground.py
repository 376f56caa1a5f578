"""The whole stack in the foreground: what systemd does on an installed machine, for laptops, tests and proofs.

Every program is a process of its own, started again at once when it dies. The stack stops in reverse order, and when
the supervisor itself is killed the kernel ends its programs. One stack per $SELFWARE_HOME. Run it in the main thread:
the kernel ties a child to the thread that started it. Why not a runner from PyPI: docs/decisions/0003.

    stack = Stack(home, settings)
    await stack.start()
    await stack.wait_ready(30)
    stack.kill("agent", signal.SIGKILL)
    await stack.stop()
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from selfware_common import http_health, paths
from selfware_common.errors import AlreadyRunningError, SelfwareError
from selfware_common.settings import Settings, load
from selfware_common.sockets import InstanceLock
from selfwarectl.supervised import Backoff, Child, Program

SUPERVISOR_VARIABLES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM"})
OWN_ENGINES = {"embedded": "embedded", "llamacpp": "embedded", "vllm": "vllm"}
"""Providers that without a base_url are served by an engine of the stack, and which kind."""
START_SECONDS = {"vllm": 1800.0}  # a model of many gigabytes; everything else is there in a moment
LEFTOVER_SECONDS = 15.0
HOUSEKEEPING_SECONDS = 5.0


class NotReadyError(SelfwareError):
    """The stack is not ready after {seconds} s: {waiting}."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    exit_code = 1
    hint = "Read {logs}."


class StackFailedError(SelfwareError):
    """The stack cannot go on: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 1


def programs_of(where: paths.Paths, settings: Settings, engine_argv: Sequence[str] | None = None) -> list[Program]:
    """The stack in start order; `engine_argv` stands in for the engine that the settings would choose."""
    programs = [_daemon(name) for name in ("checkpointd", "resourced", "oversightd")]
    own = settings.llm.provider in OWN_ENGINES and not settings.llm.base_url
    if engine_argv is not None or own:
        listen = where.engine_socket(settings.llm.model)  # where inferenced looks for it
        argv = engine_argv or _engine(listen, settings)
        programs.append(Program("engine", tuple(argv), health_socket=listen))
    return [*programs, _daemon("inferenced"), _daemon("agent")]


class Stack:
    """Owns the lock of the home, one child per program, and nothing else."""

    def __init__(
        self,
        home: Path,
        settings: Settings | None = None,
        *,
        engine_argv: Sequence[str] | None = None,
        programs: Sequence[Program] | None = None,
        log_to_files: bool = True,
        backoff: Backoff | None = None,
        grace_seconds: float = 20.0,
    ) -> None:
        """`settings` None reads the home's selfware.toml, which the daemons read in any case. `programs` replaces
        the whole list. Output goes to <home>/log/<name>.log, or to our own stderr."""
        self.paths = paths.foreground(home)
        self.logs = home.absolute() / "log"
        settings = settings if settings is not None else load(self.paths.config_file)
        self.start_seconds = START_SECONDS.get(settings.llm.provider, 120.0)
        self._programs = list(programs) if programs is not None else programs_of(self.paths, settings, engine_argv)
        self._environ = {key: value for key, value in os.environ.items() if key not in SUPERVISOR_VARIABLES}
        self._environ["SELFWARE_HOME"] = str(home.absolute())
        self._log_to_files = log_to_files
        self._backoff = backoff or Backoff()
        self._grace_seconds = grace_seconds
        self._children: dict[str, Child] = {}
        self._lives: dict[str, asyncio.Task[str]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._lock: InstanceLock | None = None
        self._failure: str | None = None
        self._failed = asyncio.Event()

    async def start(self) -> None:
        """Start every program. Raises AlreadyRunningError when this home is up already."""
        self._lock = InstanceLock(self.paths.run / "stack", "the foreground stack")
        try:
            await _leftovers_gone(self.paths.run)
        except AlreadyRunningError:
            self._lock.close()
            self._lock = None
            raise
        self.logs.mkdir(parents=True, exist_ok=True, mode=0o750)
        for program in self._programs:
            notify = self.paths.socket_of("stack", program.name)
            log_path = self.logs / f"{program.name}.log" if self._log_to_files else None
            child = Child(program, notify, log_path, self._environ, self._backoff)
            self._children[program.name] = child
            life = asyncio.create_task(child.keep_alive(), name=program.name)
            life.add_done_callback(self._on_life_over)
            self._lives[program.name] = life
        self._keeper = asyncio.create_task(self._keep_house())
        await asyncio.sleep(0)

    async def wait_ready(self, deadline_seconds: float = 60.0) -> None:
        """Until every program said READY=1 (the engine: answers /health). Raises NotReadyError, StackFailedError."""
        end = time.monotonic() + deadline_seconds
        while waiting := [name for name, child in self._children.items() if not await _is_ready(child)]:
            if self._failure is not None:
                raise StackFailedError(reason=self._failure)
            if time.monotonic() > end:
                said = ", ".join(f"{name} ({self._children[name].sentence})" for name in waiting)
                raise NotReadyError(seconds=f"{deadline_seconds:g}", waiting=said, logs=self.logs)
            await asyncio.sleep(0.02)

    async def failed(self) -> str:
        """Waits until a program ended in a way that a restart cannot mend; the sentence says which and why."""
        await self._failed.wait()
        return self._failure or ""

    async def stop(self) -> None:
        """In reverse order: SIGTERM, grace, SIGKILL. Harmless when called twice; `restarts` stays readable."""
        if self._lock is None:
            return
        for name in reversed(self._children):
            await self._end(name, self._grace_seconds)
        if self._keeper is not None:
            self._keeper.cancel()
        for child in self._children.values():
            child.close()
        self._lock.close()
        self._lock = None

    @property
    def names(self) -> list[str]:
        """In start order."""
        return [program.name for program in self._programs]

    @property
    def restarts(self) -> dict[str, int]:
        """How often each program was started again."""
        return {name: child.restarts for name, child in self._children.items()}

    def pid_of(self, name: str) -> int | None:
        """None between a death and the next start."""
        return self._children[name].pid

    def sentence_of(self, name: str) -> str:
        """What the program last said of itself (STATUS=)."""
        return self._children[name].sentence

    def is_ready(self, name: str) -> bool:
        """Whether the process that lives now has said READY=1."""
        return self._children[name].ready.is_set()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one program, as a fault would."""
        self._children[name].signal(number)

    async def _end(self, name: str, grace_seconds: float) -> None:
        self._children[name].stop()
        _, alive = await asyncio.wait([self._lives[name]], timeout=grace_seconds)
        if alive:
            logging.getLogger("selfware-stack").warning("%s did not stop within %g s: killed", name, grace_seconds)
            self.kill(name)
            await asyncio.wait(alive)

    def _on_life_over(self, life: asyncio.Task[str]) -> None:
        if not life.cancelled() and (reason := life.result()):
            self._failure = self._failure or reason
            self._failed.set()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            for child in self._children.values():
                child.rotate()


def _daemon(name: str) -> Program:
    return Program(name, (sys.executable, "-m", f"selfware_{name}"))


def _engine(listen: Path, settings: Settings) -> tuple[str, ...]:
    llm = settings.llm
    kind = OWN_ENGINES[llm.provider]
    fixed = (sys.executable, "-m", "selfware_engine", "--provider", kind, "--model", llm.model_path or llm.model)
    named = ("--name", llm.model, "--socket", str(listen))
    return (*fixed, *named, "--slots", str(llm.max_num_seqs), "--context", str(llm.max_model_len))


async def _is_ready(child: Child) -> bool:
    where = child.program.health_socket
    if where is not None and not child.ready.is_set() and await http_health.answers(where) and child.pid is not None:
        child.ready.set()
    return child.ready.is_set()


async def _leftovers_gone(run: Path) -> None:
    """Programs of a killed supervisor save their state before they go: wait for their locks to be free."""
    end = time.monotonic() + LEFTOVER_SECONDS
    for lock in [*run.glob("*/lock"), *run.glob("engine/*.lock")]:
        if lock.parent.name == "stack":
            continue
        while (holder := _holder_of(lock)) is not None:
            if time.monotonic() > end:
                raise AlreadyRunningError(daemon=f"selfware-{lock.parent.name}", pid=holder, path=lock)
            await asyncio.sleep(0.05)


def _holder_of(lock: Path) -> str | None:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return None
