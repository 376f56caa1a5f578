"""The launcher of vLLM with a stand-in for vLLM: nothing is left over, and no end that nobody asked for looks good."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
STUB = str(Path(__file__).with_name("stub_vllm.py"))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Supervisor:
    """systemd's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}

    def hears(self, seconds: float) -> bool:
        """Whether a WATCHDOG=1 comes within so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if b"WATCHDOG=1" in self._socket.recv(4096):
                    return True
        return False


class Launcher:
    """One `python -m selfware_engine --provider vllm` below a home whose selfware.toml names the stand-in."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "run/engine/m.sock"
        self.processes: list[subprocess.Popen[str]] = []
        self.socket.parent.mkdir(parents=True)
        (home / "etc").mkdir()
        (home / "model").mkdir()
        self.configure()

    def configure(self, more: str = "", command: tuple[str, ...] = (sys.executable, STUB)) -> None:
        llm = f"[llm]\nprovider = 'vllm'\nvllm_command = {json.dumps(command)}\nmax_num_seqs = 3\n{more}\n"
        (self.home / "etc/selfware.toml").write_text(llm)

    def start(self, *, ready: bool = True, **more: str) -> subprocess.Popen[str]:
        model = more.pop("model", str(self.home / "model"))
        command = [sys.executable, "-m", "selfware_engine", "--provider", "vllm", "--name", "m", "--model", model]
        environ = {**os.environ, "SELFWARE_HOME": str(self.home), **more}
        environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'daemons'}"
        for name in ("pids", "signals"):
            self.socket.with_name(name).unlink(missing_ok=True)
        process = subprocess.Popen(
            [*command, "--socket", str(self.socket)], env=environ, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        if ready:
            wait_for(lambda: self.socket.with_name("pids").exists(), "the stand-in")
            wait_for(lambda: self.ask("/health"), "an answer")
        return process

    def note(self, name: str) -> Any:
        return json.loads(self.socket.with_name(name).read_text())

    def ask(self, path: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
                client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
                return client.recv(100)
            except OSError:
                return b""

    def everything_is_gone(self) -> None:
        wait_for(lambda: not any(alive(pid) for pid in self.note("pids")), "the end of the group")
        assert not Path("/dev/shm", self.note("memory")).exists()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        launcher = Launcher(Path(directory))
        yield launcher
        for process in launcher.processes:
            process.kill()
            process.communicate()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_vllm_gets_its_arguments_and_a_clean_environment_of_its_own(launcher: Launcher) -> None:
    launcher.configure("vllm_arguments = ['--dtype', 'bfloat16']")
    launcher.start(VIRTUAL_ENV="/ours")
    argv, environ = launcher.note("argv"), launcher.note("environ")
    assert argv[:2] == ["serve", str(launcher.home / "model")]
    assert argv[argv.index("--served-model-name") + 1] == "m"
    assert argv[argv.index("--max-num-seqs") + 1] == "3"
    assert argv[-2:] == ["--dtype", "bfloat16"]
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(environ)
    assert launcher.socket.stat().st_mode & 0o007 == 0


def test_readiness_is_told_when_vllm_answers(launcher: Launcher) -> None:
    address = str(launcher.home / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(20)
        launcher.start(NOTIFY_SOCKET=address)
        assert supervisor.recv(4096).startswith(b"READY=1\nSTATUS=serving m with vLLM: 3 requests of 8192 tokens")


def test_a_stop_goes_on_to_vllm_and_leaves_nothing_behind(launcher: Launcher) -> None:
    address = str(launcher.home / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(20)
        process = launcher.start(NOTIFY_SOCKET=address)
        supervisor.recv(4096)
        process.send_signal(signal.SIGTERM)
        assert end_of(process)[0] == 0
    assert launcher.note("signals") == [signal.SIGTERM]
    launcher.everything_is_gone()
    assert not launcher.socket.exists()


def test_a_stop_while_vllm_loads_takes_no_grace(launcher: Launcher) -> None:
    launcher.configure("vllm_arguments = ['--deaf']")
    process = launcher.start(ready=False)
    wait_for(lambda: launcher.socket.with_name("pids").exists(), "the stand-in")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == 0
    assert time.monotonic() - began < 5
    launcher.everything_is_gone()


@pytest.mark.parametrize("status", [0, 1])
def test_an_end_that_nobody_asked_for_is_a_failure_even_with_status_0(launcher: Launcher, status: int) -> None:
    process = launcher.start()
    launcher.ask(f"/die/{status}")
    code, errors = end_of(process)
    assert code == 70
    assert f"vLLM ended with status {status} after" in errors
    assert "Traceback" not in errors
    launcher.everything_is_gone()


def test_the_workers_of_a_killed_vllm_go_too(launcher: Launcher) -> None:
    process = launcher.start()
    os.kill(launcher.note("pids")[0], signal.SIGKILL)
    code, errors = end_of(process)
    assert (code, "vLLM was ended by SIGKILL" in errors) == (70, True)
    launcher.everything_is_gone()


@pytest.mark.parametrize("vllm_too", [False, True])
def test_a_killed_launcher_leaves_nothing_and_the_next_one_waits_for_that(launcher: Launcher, vllm_too: bool) -> None:
    process = launcher.start()
    before = launcher.note("pids")
    process.kill()
    if vllm_too:
        os.kill(before[0], signal.SIGKILL)
    process.wait()
    assert launcher.socket.exists()
    memory = Path("/dev/shm", launcher.note("memory"))
    launcher.start()
    assert not any(alive(pid) for pid in before)
    assert not memory.exists()
    assert launcher.note("pids") != before


def test_a_second_launcher_does_not_touch_a_living_vllm(launcher: Launcher) -> None:
    first = launcher.start()
    code, errors = end_of(launcher.start(ready=False))
    assert (code, f"already running as process {first.pid}" in errors) == (75, True)
    assert launcher.ask("/health")


def test_a_missing_command_and_a_missing_model_are_one_sentence_each(launcher: Launcher) -> None:
    code, errors = end_of(launcher.start(ready=False, model="/none/such"))
    assert (code, "The model /none/such is not on this machine" in errors) == (66, True)
    launcher.configure(command=("/opt/none/vllm",))
    code, errors = end_of(launcher.start(ready=False))
    assert (code, "There is no command /opt/none/vllm to start vLLM with" in errors) == (78, True)
    assert "Traceback" not in errors


@pytest.mark.parametrize(("arguments", "lives"), [("--stuck", False), ("--busy", True)])
def test_the_watchdog_is_petted_only_while_the_engine_comes_further(
    launcher: Launcher, arguments: str, lives: bool
) -> None:
    """A server that answers /health and computes nothing is as dead as one that does not answer."""
    supervisor = Supervisor(launcher.home / "notify")
    launcher.configure(f"stall_timeout_seconds = 1.0\nvllm_arguments = ['{arguments}']")
    launcher.start(**supervisor.environ)
    assert supervisor.hears(5)
    silent = wait_for(lambda: not supervisor.hears(1.0) or lives, "silence") and not supervisor.hears(1.0)
    assert silent is not lives
    assert launcher.ask("/health").startswith(b"HTTP/1.1 200")
