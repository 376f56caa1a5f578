"""The harness keeps its own promises: real systems boot, limits hold, the plug can be pulled, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import cgroups
from tests.system.conftest import MachineFactory, VmFactory
from tests.system.guest import CommandFailedError
from tests.system.machine import Machine, children
from tests.system.workdir import PARENT, sweep

ROOT = Path(__file__).resolve().parents[2]
HOG = "import sys; kept = bytearray(300 << 20); sys.exit('still alive')"
CONTROL = """Package: harness-check
Version: {version}
Architecture: all
Maintainer: Nobody <nobody@example.invalid>
Depends: python3, bubblewrap
Description: shows that apt works offline in the image
"""
# A test process that is interrupted or killed while a container of its own runs.
VICTIM = """
import signal, sys, time
from pathlib import Path
from tests.system.machine import Machine
signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background ignores it
with Machine(Path(sys.argv[1])) as machine:
    started = machine.popen("sleep", "3600")
    print(machine.leader, machine.name, flush=True)
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def shared(machine_factory: MachineFactory) -> Iterator[Machine]:
    with machine_factory() as machine:
        yield machine


def test_a_container_boots_without_a_failed_unit(shared: Machine) -> None:
    assert shared.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
    assert shared.state() == "running"


def test_a_limit_reaches_the_kernel(shared: Machine) -> None:
    if not shared.limits_enforced:
        pytest.skip("this host does not let the container set limits")
    hog = ["systemd-run", "--wait", "--pipe", "--quiet", "-p", "MemoryMax=64M", "-p", "MemorySwapMax=0"]
    done = shared.run(*hog, "python3", "-c", HOG, check=False)
    assert done.returncode != 0
    assert "still alive" not in done.stderr
    forks = ["systemd-run", "--wait", "--pipe", "--quiet", "-p", "TasksMax=3"]
    done = shared.run(*forks, "sh", "-c", "sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait", check=False)
    assert "fork" in done.stderr


def test_commands_give_status_output_and_take_input_and_a_user(shared: Machine) -> None:
    assert shared.run("cat", input="öäü").stdout == "öäü"
    assert shared.run("sh", "-c", "echo out; echo err >&2; exit 3", check=False).returncode == 3
    with pytest.raises(CommandFailedError, match="ended with 3\nout\nerr"):
        shared.shell("echo out; echo err >&2; exit 3")
    assert shared.run("sh", "-c", "id -un; echo $HOME", user="nobody").stdout == "nobody\n/nonexistent\n"
    with pytest.raises(subprocess.TimeoutExpired):
        shared.run("sleep", "1234", timeout=0.5)
    shared.wait_for("! pgrep -f 'sleep 123[4]'")


def test_nothing_of_the_host_shows_in_the_environment(shared: Machine) -> None:
    names = {line.partition("=")[0] for line in shared.run("env").stdout.splitlines()}
    assert names == {"PATH", "HOME", "LANG", "TERM", "DEBIAN_FRONTEND"}


def test_files_and_directories_are_copied_in_and_belong_to_root(shared: Machine, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "file").write_text("content\n")
    (tmp_path / "tree" / "sub" / "file").chmod(0o750)
    os.chown(tmp_path / "tree" / "sub" / "file", 1234, 1234)
    shared.copy_in(tmp_path / "tree", "/opt/deep/named")
    shared.copy_in(tmp_path / "tree" / "sub" / "file", "/tmp/other")
    assert shared.read("/opt/deep/named/sub/file") == shared.read("/tmp/other") == "content\n"
    assert shared.run("stat", "-c", "%u %a", "/opt/deep/named/sub/file").stdout == "0 750\n"
    shared.write("/run/made/here", "text")
    assert shared.exists("/run/made/here")
    assert not shared.exists("/run/made/elsewhere")


def test_units_tell_their_pid_their_properties_and_their_journal(shared: Machine) -> None:
    shared.run("systemd-run", "--unit=talks", "sh", "-c", "echo heard; exec sleep 600")
    pid = shared.main_pid("talks")
    shared.wait_for("journalctl --sync; journalctl -u talks -o cat | grep -q '^heard$'")
    assert "heard\n" in shared.journal("talks")
    shared.run("kill", "-9", str(pid))
    shared.wait_for("systemctl is-failed -q talks")
    assert shared.unit_property("talks", "Result") == "signal"


def test_a_package_installs_upgrades_and_goes_without_a_network(shared: Machine, tmp_path: Path) -> None:
    shared.install(package(tmp_path, "1"))
    shared.install(package(tmp_path, "2"))
    assert shared.read("/usr/share/harness-check/version") == "2"
    shared.run("apt-get", "purge", "-y", "harness-check")
    assert not shared.exists("/usr/share/harness-check")


def package(directory: Path, version: str) -> Path:
    tree = directory / version
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(CONTROL.format(version=version))
    (tree / "usr/share/harness-check").mkdir(parents=True)
    (tree / "usr/share/harness-check/version").write_text(version)
    deb = directory / f"harness-check_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(deb)], check=True, timeout=60)
    return deb


def test_a_container_keeps_its_files_over_a_poweroff_and_leaves_nothing_behind(machine_factory: MachineFactory) -> None:
    """And the host's /tmp is as it was: the boot-time rules of a systemd empty the /tmp that they see."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="systemd-private-sentinel-") as sentinel:
        Path(sentinel, "file").write_text("precious")
        with machine_factory() as machine:
            name = machine.name
            machine.write("/var/lib/kept", "kept")
            machine.write("/tmp/host-never-sees-this", "")
            long_running = machine.popen("sleep", "600")
            assert not Path("/tmp/host-never-sees-this").exists()
            machine.poweroff()
            assert long_running.poll() is not None
            assert cgroups.leftovers(name) == []
            machine.boot()
            assert machine.read("/var/lib/kept") == "kept"
            leader = machine.leader
        assert Path(sentinel, "file").read_text() == "precious"
    assert gone(leader, name)
    assert name not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_test_process_that_dies_takes_its_container_along(image: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(image)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as victim:
        assert victim.stdout is not None
        leader, name = victim.stdout.readline().split()
        victim.send_signal(number)
    deadline = time.monotonic() + 60
    while not gone(int(leader), name):
        assert time.monotonic() < deadline, f"{name} is still there"
        time.sleep(0.05)
        sweep()  # what the next work directory does first


def gone(leader: int, name: str) -> bool:
    """Whether nothing is left of a container: processes, cgroups, files."""
    return not Path(f"/proc/{leader}").exists() and not cgroups.leftovers(name) and not (PARENT / name).exists()


def test_children_of_a_process_that_is_gone_are_none() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert list(children(process.pid)) == []


def test_a_pulled_plug_loses_nothing_that_was_synced(vm_factory: VmFactory, tmp_path: Path) -> None:
    """Also that the same disk boots again, that big files come in, and that cgroup v2 enforces there."""
    (tmp_path / "big").write_bytes(os.urandom(1 << 20) * 40)
    with vm_factory() as vm:
        print(f"booted in {vm.boot():.1f} s")
        assert "cloud" in vm.run("uname", "-r").stdout or vm.exists("/vmlinuz")
        assert vm.run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").stdout == "cgroup2fs\n"
        began = time.monotonic()
        vm.copy_in(tmp_path / "big", "/var/tmp/big")
        print(f"40 MiB copied in {time.monotonic() - began:.1f} s")
        assert vm.run("stat", "-c", "%s", "/var/tmp/big").stdout == f"{40 << 20}\n"
        hog = ["systemd-run", "--unit=hog", "--service-type=oneshot", "-p", "MemoryMax=32M", "-p", "MemorySwapMax=0"]
        assert vm.run(*hog, "python3", "-c", HOG, check=False).returncode != 0
        assert vm.unit_property("hog", "Result") == "oom-kill"
        with pytest.raises(subprocess.TimeoutExpired):
            vm.run("sleep", "1234", timeout=1)
        vm.shell("echo -n synced >/var/lib/synced; sync /var/lib/synced /var/lib")
        vm.power_cut()
        print(f"booted again in {vm.boot():.1f} s")
        assert vm.read("/var/lib/synced") == "synced"
        vm.poweroff()
        assert vm.boot() > 0
        assert vm.read("/var/lib/synced") == "synced"
        work = vm.disk.parent
    assert not work.exists()
