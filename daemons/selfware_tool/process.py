"""Runs one bubblewrap and everything in it to the end: feeds it, collects what it prints, stops it in time.

Owns the bubblewrap process, its pipes and its process namespace; when ``watch`` returns, nothing of it is alive.
Single-threaded on purpose: the kernel kills bubblewrap with the *thread* that started it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable

from selfware_common.record import NamedTuple

from .output import BoundedOutput
from .words import Ending

CHUNK_BYTES = 1 << 16
DRAIN_SECONDS = 5.0
LOOK_SECONDS = 0.25  # how often it is looked whether the disk is full
FIRST_TO_GO = 800  # oom_score_adj of an action: when memory runs out, it goes before any daemon


class SandboxFailedError(Exception):
    """Bubblewrap ended before it had started the action. What it said is in the output."""


class Running(NamedTuple):
    """A sandbox that was started, and our ends of its pipes."""

    pid: int
    stdin_fd: int
    output_fd: int
    status_fd: int


class SandboxProcess:
    """One bubblewrap, started; call ``watch`` once."""

    def __init__(self, running: Running, cancel_fd: int) -> None:
        pid, stdin_fd, output_fd, status_fd = running
        os.set_blocking(stdin_fd, False)
        self._pid = pid
        self._monitor = os.pidfd_open(pid)
        self._init_pid = 0
        self._init = -1
        self._stdin_fd, self._output_fd, self._status_fd = stdin_fd, output_fd, status_fd
        self._cancel_fd = cancel_fd
        self._status_text = b""
        self._to_feed = b""
        self._timed_out = self._cancelled = self._no_room = False
        self._stop_at = 0.0
        self._poll = select.poll()
        for fd in (self._monitor, output_fd, status_fd, cancel_fd):
            self._poll.register(fd, select.POLLIN)

    def watch(
        self,
        stdin: bytes,
        output: BoundedOutput,
        timeout_seconds: float,
        grace_seconds: float,
        has_room: Callable[[], bool] = lambda: True,
    ) -> Ending:
        """Wait for the end, and say how it came; SandboxFailedError if the action never began. An action that leaves
        no room on the disk is stopped before the daemons have to do without."""
        self._to_feed = stdin
        deadline = time.monotonic() + timeout_seconds
        while not self._turn(output, min(self._stop_at or deadline, time.monotonic() + LOOK_SECONDS)):
            now = time.monotonic()
            if not self._stop_at and not has_room():
                self._no_room = self._cancelled = True
            if self._stop_at and now >= self._stop_at:
                self._kill()
                self._stop_at = now + DRAIN_SECONDS
            elif not self._stop_at and (self._cancelled or now >= deadline):
                self._timed_out = not self._cancelled
                self._terminate()
                self._stop_at = now + grace_seconds
        self._drain(output)
        return self._ending(was_killed=self._report("exit-code") is None and self._was_killed())

    def _turn(self, output: BoundedOutput, until: float) -> bool:
        """Answer what is ready; True once the action has ended, as bubblewrap says or shows by its own end."""
        ended = False
        for fd, _events in self._poll.poll(max(0.0, until - time.monotonic()) * 1000 + 1):
            if fd == self._output_fd:
                self._read_output(output)
            elif fd == self._status_fd:
                ended |= self._read_status()
            elif fd == self._stdin_fd:
                self._feed()
            elif fd == self._cancel_fd:
                os.read(fd, CHUNK_BYTES)
                self._cancelled = True
            else:
                ended = True
        return ended

    def _read_output(self, output: BoundedOutput) -> None:
        data = os.read(self._output_fd, CHUNK_BYTES)
        if data:
            output.add(data)
        else:
            self._poll.unregister(self._output_fd)

    def _read_status(self) -> bool:
        """Bubblewrap's reports: first the process id inside, in the end the exit status; True with that one."""
        data = os.read(self._status_fd, CHUNK_BYTES)
        self._status_text += data
        if not data:
            self._poll.unregister(self._status_fd)
        if self._init < 0 and (init_pid := self._report("child-pid")) is not None:
            try:
                self._init = os.pidfd_open(init_pid)
                self._init_pid = init_pid
                # By now bubblewrap dies with us, so the action may begin.
                self._poll.register(self._stdin_fd, select.POLLOUT)
            except ProcessLookupError:
                pass  # it ended already: the sandbox could not be set up
        return self._report("exit-code") is not None

    def _report(self, name: str) -> int | None:
        for line in self._status_text.splitlines(keepends=True):
            if line.endswith(b"\n") and name in (record := json.loads(line)):
                return int(record[name])
        return None

    def _feed(self) -> None:
        try:
            self._to_feed = self._to_feed[os.write(self._stdin_fd, self._to_feed) :]
        except BrokenPipeError:
            self._to_feed = b""
        if not self._to_feed:
            self._poll.unregister(self._stdin_fd)
            os.close(self._stdin_fd)

    def _terminate(self) -> None:
        """Ask everything inside, daemons too, to end: all of it descends from the first process inside."""
        for pid in _descendants(self._init_pid):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue

    def _kill(self) -> None:
        """The kernel kills the whole process namespace together with its first process."""
        for pidfd in (self._init, self._monitor):
            if pidfd >= 0:
                try:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _drain(self, output: BoundedOutput) -> None:
        """Wait until the last process inside is gone, then take what is left in the pipes."""
        if self._init >= 0:
            waiter = select.poll()
            waiter.register(self._init, select.POLLIN)
            waiter.poll(DRAIN_SECONDS * 1000)
        for fd in (self._output_fd, self._status_fd):
            os.set_blocking(fd, False)
        try:
            while data := os.read(self._output_fd, CHUNK_BYTES):
                output.add(data)
        except BlockingIOError:
            pass
        try:
            while data := os.read(self._status_fd, CHUNK_BYTES):
                self._status_text += data
        except BlockingIOError:
            pass

    def _was_killed(self) -> bool:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) < 0

    def _ending(self, *, was_killed: bool) -> Ending:
        """Without a report the action never began, unless somebody killed who would have reported."""
        status = self._report("exit-code")
        if status is not None:
            return Ending(status, self._timed_out, self._cancelled, self._no_room)
        if self._timed_out or self._cancelled or was_killed:
            return Ending(128 + signal.SIGKILL, self._timed_out, self._cancelled, self._no_room)
        raise SandboxFailedError


def spawn(argv: list[str], inherited: list[int], stdin_fd: int, output_fd: int) -> int:
    """Start bubblewrap with an empty environment, default signals and only these descriptors; its process id."""
    for fd in inherited:
        os.set_inheritable(fd, True)
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin_fd, 0),
        (os.POSIX_SPAWN_DUP2, output_fd, 1),
        (os.POSIX_SPAWN_DUP2, output_fd, 2),
    ]
    default = [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ]
    own = swap_oom_score(FIRST_TO_GO)
    try:
        return os.posix_spawn(argv[0], argv, {}, file_actions=actions, setsigmask=[], setsigdef=default)
    finally:
        swap_oom_score(own)


def swap_oom_score(score: int) -> int:
    """Set this process's place in the queue for the out-of-memory killer; children inherit it. Returns the old one."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        old = int(os.read(fd, 32))
        if score != old:
            os.pwrite(fd, str(score).encode(), 0)
        return old
    finally:
        os.close(fd)


def _descendants(pid: int) -> list[int]:
    """The living children of a process, and theirs, oldest first."""
    found = []
    waiting = [pid] if pid else []
    while waiting:
        parent = waiting.pop()
        children = [child for task in _tasks(parent) for child in _children(parent, task)]
        found += children
        waiting += children
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _children(pid: int, task: str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
