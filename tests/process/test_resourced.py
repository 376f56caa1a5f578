"""selfware-resourced as a real process: Read, Watch, no GPU, a fake GPU that heats, breaks and hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from selfware_common import clients
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc, resource_pb2, resource_pb2_grpc

FAST = "[resources.memory]\nmonitor_interval_seconds = 0.1\n[resources.gpu]\nmonitor_interval_seconds = 0.1\n"


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        yield Path(directory)


class Running:
    """One resourced with a channel to it."""

    def __init__(self, home: Path, toml: str = FAST, **environ: str) -> None:
        (home / "etc").mkdir()
        (home / "etc/selfware.toml").write_text(toml)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "selfware_resourced"],
            env={**os.environ, "SELFWARE_HOME": str(home), **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.channel = clients.sync_channel(home / "run/resourced/api.sock")
        self.stub = resource_pb2_grpc.ResourceStub(self.channel)
        self.read()

    def read(self) -> resource_pb2.Reading:
        return self.stub.Read(resource_pb2.ReadRequest(), timeout=20, wait_for_ready=True)

    def read_until(
        self, condition: Callable[[resource_pb2.Reading], bool], seconds: float = 20
    ) -> resource_pb2.Reading:
        deadline = time.monotonic() + seconds
        while not condition(reading := self.read()):
            assert time.monotonic() < deadline, reading
            time.sleep(0.02)
        return reading

    def end(self) -> tuple[int, str]:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


def test_read_tells_memory_disk_and_load_and_that_there_is_no_gpu(home: Path) -> None:
    resourced = Running(home, LD_LIBRARY_PATH="")
    reading = resourced.read_until(lambda one: one.gpu_note != "not read yet")
    assert reading.memory.total_bytes == psutil.virtual_memory().total
    assert 0 < reading.memory.used_ratio < 1
    assert reading.disk.path == str(home / "state")
    assert reading.disk.total_bytes > 0
    assert reading.cpu.cores >= 1
    assert reading.pressure >= resource_pb2.PRESSURE_NONE
    assert reading.sentence.startswith("memory ")
    if not reading.gpus:
        assert reading.gpu_note == "no GPU"
        assert ", no GPU: " in reading.sentence
    code, errors = resourced.end()
    assert code == 0
    assert errors.count("no GPU") <= 2
    assert "Traceback" not in errors


def test_watch_begins_with_the_present_reading_repeats_it_and_ends_when_the_daemon_stops(home: Path) -> None:
    resourced = Running(home)
    stream = resourced.stub.Watch(resource_pb2.WatchRequest(interval_seconds=0.1), timeout=30)
    times = [next(stream).time_unix_nanos for _ in range(3)]
    assert times == sorted(times)
    began = time.monotonic()
    resourced.process.send_signal(signal.SIGTERM)
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    code, _ = resourced.end()
    assert code == 0
    assert time.monotonic() - began < 5


def test_the_sentence_is_the_status_and_does_not_change_every_cycle(home: Path) -> None:
    resourced = Running(home)
    resourced.read_until(lambda one: one.gpu_note != "not read yet")
    stub = daemon_pb2_grpc.DaemonStub(resourced.channel)
    deadline = time.monotonic() + 20
    while not (said := stub.Status(daemon_pb2.StatusRequest(), timeout=10).sentence).startswith("memory"):
        assert time.monotonic() < deadline
    assert said.endswith("pressure") or " pressure from " in said
    first = resourced.read().time_unix_nanos
    resourced.read_until(lambda one: one.time_unix_nanos - first > 1e9)
    _, errors = resourced.end()
    assert len([line for line in errors.splitlines() if " memory " in line]) < 6


def test_an_idle_resourced_costs_next_to_nothing(home: Path) -> None:
    resourced = Running(home, toml="")
    process = psutil.Process(resourced.process.pid)
    time.sleep(0.5)  # start-up is over; what follows is a measurement, not a wait for a condition
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(4)
    share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
    rss = process.memory_info().rss
    resourced.end()
    assert share < 0.01  # clock ticks of 10 ms over 4 s; the bench measures finer
    assert rss < 64 * 2**20


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: the fake GPU library cannot be built")
    directory = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    command = ["gcc", "-O1", "-fPIC", "-shared", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", str(directory / "libnvidia-ml.so.1"), str(source)], check=True)
    return directory


class FakeGpu:
    """The file that drives the fake library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set()

    def set(self, **values: int) -> None:
        temporary = self.path.with_suffix(".new")
        temporary.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        temporary.replace(self.path)


@pytest.fixture
def gpu(home: Path) -> FakeGpu:
    return FakeGpu(home / "gpu")


def with_gpu(home: Path, library: Path) -> Running:
    return Running(home, LD_LIBRARY_PATH=str(library), FAKE_NVML=str(home / "gpu"))


def test_a_gpu_is_read_and_its_heat_is_pressure_that_a_watcher_sees(home: Path, library: Path, gpu: FakeGpu) -> None:
    resourced = with_gpu(home, library)
    one = resourced.read_until(lambda reading: bool(reading.gpus)).gpus[0]
    assert one.memory_used_bytes == 1 << 30, "what the driver keeps for itself is nobody's"
    assert (one.name, one.temperature_celsius, one.memory_total_bytes) == ("Fake GPU", 45, 24 * 2**30)
    assert one.utilization_ratio == pytest.approx(0.1)
    changes = resourced.stub.Watch(resource_pb2.WatchRequest(), timeout=30)
    next(changes)
    gpu.set(celsius=91)
    hot = next(changes)
    assert hot.gpus[0].pressure == resource_pb2.PRESSURE_CRITICAL
    assert "critical pressure from heat of GPU 0" in hot.sentence
    gpu.set(celsius=50, no_rates=1)
    calm = next(changes)
    assert calm.gpus[0].pressure == resource_pb2.PRESSURE_NONE
    assert calm.gpus[0].utilization_ratio == -1
    changes.cancel()
    assert resourced.end()[0] == 0


def test_a_lost_gpu_is_a_note_and_comes_back_by_itself(home: Path, library: Path, gpu: FakeGpu) -> None:
    resourced = with_gpu(home, library)
    resourced.read_until(lambda reading: bool(reading.gpus))
    gpu.set(error=15)
    lost = resourced.read_until(lambda reading: not reading.gpus)
    assert lost.gpu_note == "no GPU reading: GPU is lost"
    gpu.set()
    resourced.read_until(lambda reading: bool(reading.gpus))
    assert resourced.end()[0] == 0


def test_a_driver_that_hangs_neither_blocks_the_readings_nor_the_stop(home: Path, library: Path, gpu: FakeGpu) -> None:
    resourced = with_gpu(home, library)
    resourced.read_until(lambda reading: bool(reading.gpus))
    gpu.set(hang=1)
    silent = resourced.read_until(lambda reading: "does not answer" in reading.gpu_note, seconds=30)
    assert not silent.gpus
    assert "GPU driver does not answer" in silent.sentence
    before = silent.time_unix_nanos
    resourced.read_until(lambda reading: reading.time_unix_nanos > before)
    began = time.monotonic()
    code, _ = resourced.end()
    assert code == 0
    assert time.monotonic() - began < 5
