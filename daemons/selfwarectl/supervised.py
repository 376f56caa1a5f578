"""One program under the foreground supervisor: its process now, when it is started again, how it ended.

A death is noticed by the kernel's word (a pidfd becomes readable), not by polling, so a killed daemon is back after
the time its own start takes. The child speaks sd_notify(3) to a socket of its own, exactly as under systemd. Its output
goes straight to a file or the terminal, never through a pipe of ours: a stopped or dead supervisor blocks nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOG_LIMIT_BYTES = 5_000_000
FATAL_EXITS = frozenset({65, 66, 69, 75, 78})
"""Trying again cannot help: damaged or missing model, not installed, already running, configuration (sysexits.h)."""


@dataclass(frozen=True)
class Program:
    """What to run. With `health_socket` it is an engine: ready when HTTP GET /health there is answered, and started
    again whatever its exit status (an engine whose worker died may end with 0). Any other program is ready at READY=1,
    and when it ends with 0 it meant to end, as the agent does at max_runtime_hours."""

    name: str
    argv: tuple[str, ...]
    health_socket: Path | None = None


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next start. Not at all, unless a program dies soon after its start, repeatedly."""

    base_seconds: float = 0.25
    max_seconds: float = 10.0
    quick_seconds: float = 5.0
    forget_seconds: float = 60.0

    def failures(self, before: int, lived_seconds: float) -> int:
        """Quick deaths in memory after one more life of `lived_seconds`."""
        if lived_seconds >= self.forget_seconds:
            return 0
        return before + (lived_seconds < self.quick_seconds)

    def delay(self, failures: int, lived_seconds: float) -> float:
        """0 at first; base, 2 base, 4 base ... max while it keeps dying young."""
        if failures < 2 or lived_seconds >= self.quick_seconds:
            return 0.0
        return float(min(self.max_seconds, self.base_seconds * 2 ** min(failures - 2, 30)))


class Child:
    """Owns the process, its notify socket and its log file."""

    def __init__(
        self, program: Program, notify_path: Path, log_path: Path | None, environ: Mapping[str, str], backoff: Backoff
    ) -> None:
        self.program = program
        self.restarts = 0
        self.sentence = "not started"
        self.last_end = ""
        self.ready = asyncio.Event()
        self.log_path = log_path
        self._log = logging.getLogger("selfware-stack")
        self._environ = {**environ, "NOTIFY_SOCKET": str(notify_path)}
        self._backoff = backoff
        self._stopping = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._notify_path = notify_path
        self._notify = _listen(notify_path)
        asyncio.get_running_loop().add_reader(self._notify, self._on_notify)

    @property
    def pid(self) -> int | None:
        """Of the process that lives now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def keep_alive(self) -> str:
        """Start it, and start it again whenever it ends, until stop(); returns why another start would not help,
        or '' after stop()."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await _end_of(self._launch())
            self.ready.clear()
            self.last_end = ending(code)
            if self._stopping.is_set():
                break
            if code in FATAL_EXITS:
                return f"{self.program.name} {self.last_end}: {self._last_line()}"
            if code == 0 and self.program.health_socket is None:
                self._log.info("%s ended by itself", self.program.name)
                return ""
            lived = time.monotonic() - began
            failures = self._backoff.failures(failures, lived)
            delay = self._backoff.delay(failures, lived)
            self.restarts += 1
            when = f"in {delay:g} s" if delay else "at once"
            self._log.warning("%s %s: starting it again %s", self.program.name, self.last_end, when)
            await self._pause(delay)
        return ""

    def signal(self, number: int) -> None:
        """Does nothing when no process lives."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Ask it to end; keep_alive() returns when it did."""
        self._stopping.set()
        self.signal(signal.SIGTERM)

    def close(self) -> None:
        """Give the notify socket back."""
        asyncio.get_running_loop().remove_reader(self._notify)
        self._notify.close()
        self._notify_path.unlink(missing_ok=True)

    def rotate(self) -> None:
        """Copy the log away and cut it where it is: the child keeps its descriptor (opened for appending)."""
        if self.log_path is not None and self.log_path.exists() and self.log_path.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(self.log_path, self.log_path.with_name(f"{self.log_path.name}.1"))
            os.truncate(self.log_path, 0)

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [*_dies_with_us(), *self.program.argv]
        out = None if self.log_path is None else os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            self._process = subprocess.Popen(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops in order
            )
        finally:
            if out is not None:
                os.close(out)
        self.sentence = "starting"
        return self._process

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _on_notify(self) -> None:
        try:
            message = self._notify.recv(4096).decode("utf-8", "replace")
        except BlockingIOError:
            return
        for line in message.splitlines():
            if line == "READY=1":
                self.ready.set()
            elif line.startswith("STATUS="):
                self.sentence = line.removeprefix("STATUS=")

    def _last_line(self) -> str:
        if self.log_path is None or not self.log_path.exists():
            return "its last line says why"
        lines = self.log_path.read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def ending(code: int) -> str:
    """An exit status as subprocess gives it, in words."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


async def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Waits on a pidfd: asyncio's own wait() may hang while a grandchild holds the child's output open."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


def _dies_with_us() -> list[str]:
    """The kernel ends the child when the supervisor is gone, even by kill -9 (prctl(2), PR_SET_PDEATHSIG)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    listener.setblocking(False)
    listener.bind(str(path))
    return listener
