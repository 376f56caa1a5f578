"""A real systemd in a container of its own: boots in about half a second, for tests that install the .deb.

The container runs in a PID and a mount namespace that end with the test process, however that one ends: `setpriv
--pdeathsig` kills unshare, `--kill-child` kills nspawn, which is PID 1 there, and the kernel kills everything below.
The host's /tmp and /run are covered in that mount namespace, so nothing in it can reach them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from tests.system import cgroups, root
from tests.system.guest import ENVIRONMENT, Guest, GuestError, as_user
from tests.system.workdir import WorkDir

BOOT_SECONDS = 60.0
POWEROFF_SECONDS = 30.0
POWEROFF = signal.SIGRTMIN + 4  # systemd(1): start poweroff.target

JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; '
ISOLATE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
COVER = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /tmp"
START = f'set -e; {JOIN} exec "$@"'
# nspawn has no option to leave the controllers writable. These are the container's own (see cgroups.py).
INIT = 'for c in "$@"; do mount -o remount,bind,rw "/sys/fs/cgroup/$c" || :; done; exec /lib/systemd/systemd'
NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--private-network",
          "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe")  # fmt: skip
TOOLS = ("systemd-nspawn", "setpriv", "unshare", "nsenter", "mount", "tar")
PROBE = """d=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
if [ -n "$d" ]; then cat "/sys/fs/cgroup/memory$d/memory.limit_in_bytes"
else cat "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max"; fi"""
PROBE_BYTES = 64 << 20


@functools.cache
def available() -> str:
    """Empty when containers can be booted here, else the reason why not."""
    if os.geteuid() != 0:
        return "not root: systemd-nspawn needs it"
    if missing := missing_tools(TOOLS):
        return missing
    if not cgroups.MOUNT.is_dir() or not os.access(cgroups.MOUNT, os.W_OK):
        return f"{cgroups.MOUNT} is not writable"
    argv = [*ISOLATE, "sh", "-c", COVER]
    tried = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    return f"mounting in a namespace is refused: {tried.stderr.strip()}" if tried.returncode else ""


def missing_tools(names: Sequence[str]) -> str:
    """Empty, or which of the commands are not installed."""
    places = os.environ.get("PATH", "").split(":")
    lacking = [name for name in names if not any(os.access(Path(place, name), os.X_OK) for place in places)]
    return f"not installed: {' '.join(lacking)}" if lacking else ""


class Machine(Guest):
    """One booted container. Enter it from a thread that outlives it: the container ends with that thread."""

    def __init__(self, image: Path, debs: Sequence[Path] = ()) -> None:
        self._image = image
        self._debs = debs
        self._started: list[subprocess.Popen[str]] = []
        self._groups: set[int] = set()  # process groups of the commands that execute() waits for
        self.boot_seconds = 0.0

    def __enter__(self) -> Machine:
        self._work = WorkDir()
        self._nspawn: subprocess.Popen[bytes] | None = None
        try:
            self._root, self._mount = root.prepare(self._image, self._work.path)
            self.boot()
            if self._debs:
                self.install(*self._debs)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The name of the work directory and of the cgroups."""
        return self._work.name

    def boot(self) -> None:
        """Boot; again, after poweroff() or kill(): files are what they were."""
        began = time.monotonic()
        groups = cgroups.create(self.name)
        with (self._work.path / "console.log").open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["sh", "-c", START, "sh", *map(str, groups), "--",
                 *ISOLATE, "sh", "-c", f'{COVER} && {self._mount} && exec "$@"', "sh",
                 *NSPAWN, "-M", "selfware-test", "-D", str(self._root),
                 "/bin/sh", "-c", INIT, "sh", *(cgroups.CONTROLLERS if groups else ())],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        self.leader = self._wait_for_leader(began + BOOT_SECONDS)
        self._join = [str(path) for path in cgroups.root_of(self.leader)] if groups else []
        while (state := self.state()) not in {"running", "degraded"}:
            if time.monotonic() > began + BOOT_SECONDS:
                raise GuestError(f"the container is still {state!r} after {BOOT_SECONDS:.0f} s\n{self.console()}")
            time.sleep(self.poll_seconds)
        self.boot_seconds = time.monotonic() - began

    @functools.cached_property
    def limits_enforced(self) -> bool:
        """Whether MemoryMax= and its like reach the kernel here; ask it before testing what a limit does."""
        argv = ["systemd-run", "--quiet", "--wait", "--pipe", f"--property=MemoryMax={PROBE_BYTES}"]
        return self.run(*argv, "sh", "-c", PROBE, check=False).stdout.strip() == str(PROBE_BYTES)

    def execute(self, argv: list[str], data: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
        """Run in all namespaces of the container, in its root cgroup."""
        with subprocess.Popen(
            self._enter(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:  # fmt: skip
            self._groups.add(process.pid)
            try:
                out, err = process.communicate(data, timeout)
            except BaseException:
                signal_group(process.pid, signal.SIGKILL)  # nsenter and the command share the process group
                raise
            finally:
                self._groups.discard(process.pid)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def popen(self, *argv: str, user: str | None = None) -> subprocess.Popen[str]:
        """Start a command and go on; standard input and both outputs are pipes. Dies with the machine at the latest."""
        process = subprocess.Popen(
            self._enter(as_user(user, argv)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def poweroff(self) -> None:
        """Shut down as a machine does: every unit stops. Commands that still run from outside are ended before.

        Their parent is outside too, so PID 1 would wait 10 s, or for ever, for the news that they have gone.
        """
        assert self._nspawn is not None, "not booted"
        for group in tuple(self._groups):
            signal_group(group, signal.SIGKILL)
        for process in self._started:
            end(process)
        os.kill(self.leader, POWEROFF)
        try:
            status = self._nspawn.wait(POWEROFF_SECONDS)
        except subprocess.TimeoutExpired:
            raise GuestError(f"no poweroff within {POWEROFF_SECONDS:.0f} s\n{self.console()}") from None
        self.kill()
        if status != 0:
            raise GuestError(f"the container ended with {status}\n{self.console()}")

    def kill(self) -> None:
        """End everything in the container at once; its files stay, boot() may follow."""
        if self._nspawn is None:
            return
        self._nspawn.kill()
        self._nspawn.wait()
        self._nspawn = None
        for process in self._started:
            end(process)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._started.clear()
        self.__dict__.pop("limits_enforced", None)
        cgroups.remove(self.name)  # waits until the last process is gone

    def close(self) -> None:
        """kill(), and remove all files."""
        self.kill()
        cgroups.remove(self.name)
        self._work.remove()

    def console(self) -> str:
        """The end of what nspawn and systemd wrote to the console."""
        return (self._work.path / "console.log").read_text(errors="replace")[-4000:]

    def _enter(self, argv: list[str]) -> list[str]:
        if self._nspawn is None or self._nspawn.poll() is not None:
            raise GuestError("the container is not running")
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return ["sh", "-c", f'{JOIN} exec "$@"', "sh", *self._join, "--", *enter, "env", "-i", *environment, *argv]

    def _wait_for_leader(self, deadline: float) -> int:
        """The PID that the host has for the container's PID 1, once that is systemd."""
        assert self._nspawn is not None
        while self._nspawn.poll() is None and time.monotonic() < deadline:
            for nspawn in children(self._nspawn.pid):
                for leader in children(nspawn):
                    with contextlib.suppress(OSError):
                        if Path(f"/proc/{leader}/comm").read_text(encoding="utf-8") == "systemd\n":
                            return leader
            time.sleep(0.01)
        raise GuestError(f"systemd-nspawn did not start systemd\n{self.console()}")


def children(pid: int) -> Iterator[int]:
    """The processes that a single-threaded process started and that still exist."""
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split())


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal a process group, unless it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def end(process: subprocess.Popen[str]) -> None:
    """SIGKILL to what popen() started, unless it ended before: then its number may be somebody else's by now."""
    if process.poll() is None:
        signal_group(process.pid, signal.SIGKILL)
        process.wait()
