"""The skeleton all daemons share, run as a real process: sockets, health, reload, second instance, kill, notify."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from selfware_common import clients
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc

PROGRAM = """
import sys
from selfware_common.daemon import Daemon, run
from selfware_common.health import Check

class Counter(Daemon):
    name = "counter"
    idea = "counts its own cycles"
    turns = 0

    def checks(self):
        return [Check("part", self.look, interval_seconds=0.05, failure_threshold=2, remedy=self.mend)]

    async def look(self) -> str:
        broken = self.paths.state / "broken"
        return broken.read_text() if broken.exists() else ""

    async def mend(self) -> str:
        return "put a new part in"

    async def cycle(self) -> str:
        await self.wait_or_stop(0.05)
        self.turns += 1
        return f"turn {self.turns}"

    async def close(self) -> None:
        (self.paths.state_of("counter") / "saved").write_text(str(self.turns))

sys.exit(run(Counter, sys.argv[1:]))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        yield Path(directory)


def start(home: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "SELFWARE_HOME": str(home), **environ},
        stderr=subprocess.PIPE,
        text=True,
    )


def status(home: Path, deadline_seconds: float = 20) -> daemon_pb2.StatusReply:
    with clients.sync_channel(home / "run/counter/api.sock") as channel:
        stub = daemon_pb2_grpc.DaemonStub(channel)
        return stub.Status(daemon_pb2.StatusRequest(), timeout=deadline_seconds, wait_for_ready=True)


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


def test_a_cycle_sentence_is_the_status_and_a_polite_stop_saves(home: Path) -> None:
    process = start(home)
    first = status(home)
    assert first.name == "selfware-counter"
    assert first.pid == process.pid
    deadline = time.monotonic() + 10
    while not status(home).sentence.startswith("turn"):
        assert time.monotonic() < deadline
    code, errors = end(process)
    assert code == 0
    assert int((home / "state/counter/saved").read_text()) >= 1
    assert "stopped" in errors
    assert "Traceback" not in errors


def test_health_and_reflection_are_offered_on_the_socket(home: Path) -> None:
    process = start(home)
    status(home)
    with clients.sync_channel(home / "run/counter/api.sock") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"selfware.daemon.v1.Daemon", "grpc.health.v1.Health"} <= set(names)
    end(process)


def test_a_broken_part_is_told_by_name_mended_and_well_again(home: Path) -> None:
    process = start(home)
    assert status(home).health == "healthy"
    (home / "state/broken").write_text("a wheel is off")
    wait_for(lambda: status(home).health == "unhealthy", "an unhealthy daemon")
    (part,) = status(home).components
    assert (part.name, part.state, part.severity, part.reason) == ("part", "unhealthy", "critical", "a wheel is off")
    assert health_of(home, "component.part") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert health_of(home, "") == health_pb2.HealthCheckResponse.SERVING
    (home / "state/broken").unlink()
    wait_for(lambda: status(home).health == "healthy", "a healthy daemon")
    assert health_of(home, "component.part") == health_pb2.HealthCheckResponse.SERVING
    _, errors = end(process)
    for sentence in ("part is degraded: a wheel", "part is unhealthy: a wheel", "put a new part in", "healthy again"):
        assert sentence in errors


def health_of(home: Path, service: str) -> int:
    with clients.sync_channel(home / "run/counter/api.sock") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"


def test_a_second_instance_is_refused_in_one_sentence_and_the_first_goes_on(home: Path) -> None:
    first = start(home)
    status(home)
    second = start(home)
    _, errors = second.communicate(timeout=20)
    assert second.returncode == 75
    assert f"already running as process {first.pid}" in errors
    assert "Traceback" not in errors
    assert status(home).pid == first.pid
    end(first)


def test_a_stale_socket_of_a_killed_process_is_replaced(home: Path) -> None:
    end_code, _ = _killed(home)
    assert end_code == -signal.SIGKILL
    assert (home / "run/counter/api.sock").is_socket()
    process = start(home)
    assert status(home).pid == process.pid
    _, errors = end(process)
    assert "removed the stale socket" in errors


def _killed(home: Path) -> tuple[int, str]:
    process = start(home)
    status(home)
    return end(process, signal.SIGKILL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[sytem]\n", "unknown key 'sytem'; did you mean 'system'?"),
        ("[system]\nsession = 'x'\n", "unknown key 'system.session'; did you mean 'system.session_id'?"),
        ("[agent]\nworkers = 'two'\n", "'agent.workers' must be a whole number, not a string ('two')"),
        ("[agent]\nworkers = 0\n", "'agent.workers' is 0, but must be at least 1"),
        ("[agent\n", "not valid TOML"),
        ("[supervision]\nstrategy = 'OneForAl'\n", "did you mean 'OneForAll'?"),
    ],
)
def test_a_bad_configuration_is_one_sentence_and_exit_78(home: Path, text: str, expected: str) -> None:
    (home / "etc").mkdir()
    (home / "etc/selfware.toml").write_text(text)
    process = start(home)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 78
    assert expected in errors
    assert len(errors.strip().splitlines()) == 1


def test_reload_keeps_the_old_configuration_when_the_new_one_is_bad(home: Path) -> None:
    process = start(home)
    status(home)
    (home / "etc").mkdir()
    (home / "etc/selfware.toml").write_text("[nonsense]\n")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert status(home).pid == process.pid
    _, errors = end(process)
    assert "kept the old configuration" in errors


def test_notify_says_ready_pets_the_watchdog_per_cycle_and_says_stopping(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(home / "notify"))
        supervisor.settimeout(20)
        process = start(home, NOTIFY_SOCKET=str(home / "notify"), WATCHDOG_USEC="30000000")
        messages = [supervisor.recv(4096).decode() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        while not messages[-1].startswith("STOPPING=1"):
            messages.append(supervisor.recv(4096).decode())
        process.communicate(timeout=20)
    assert messages[0].startswith("READY=1")
    assert messages[1].startswith("WATCHDOG=1\nSTATUS=turn ")


def test_a_socket_path_that_linux_cannot_bind_is_named(home: Path) -> None:
    deep = home / ("d" * 100)
    process = start(deep)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 78
    assert "Set SELFWARE_HOME to a shorter directory" in errors


def test_an_unreachable_daemon_is_an_answer_not_a_wait(home: Path) -> None:
    with clients.sync_channel(home / "run/counter/api.sock") as channel, pytest.raises(grpc.RpcError) as caught:
        daemon_pb2_grpc.DaemonStub(channel).Status(daemon_pb2.StatusRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
