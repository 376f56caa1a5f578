"""The .deb on a booted machine: what it brings, what an upgrade leaves alone, and that purge leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfware_common import catalog
from tests.system import installed
from tests.system.conftest import MachineFactory
from tests.system.guest import DEBS
from tests.system.machine import Machine

NEWER = "99.0.0"
# What any package leaves behind, and what changes by itself.
NOT_OURS = (
    r"/(proc|sys|dev|run|tmp|root)(/.*)?|/srv(/debs.*)?|/opt(/.*)?|/var/(log|cache|tmp)/.*|/var/lib/(apt|dpkg)/.*"
    r"|/var/lib/systemd/(random-seed|catalog/.*|timers.*|coredump.*)|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|/etc/\.pwd\.lock"
)
SNAPSHOT = f"find / -xdev -regextype posix-extended -regex '{NOT_OURS}' -prune -o -print | sort"
# udev's: the package makes it where udev is missing, and others may have come to use it.
GROUP_THAT_STAYS = "render"


@pytest.fixture(scope="module")
def box(machine_factory: MachineFactory) -> Iterator[Machine]:
    """A machine with the package installed and the scripted engine, not started."""
    with machine_factory() as machine:
        installed.put_on(machine, start=False)
        yield machine


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package under a higher version."""
    work = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", installed.deb(), work / "tree"], check=True)
    control = work / "tree/DEBIAN/control"
    text = control.read_text(encoding="utf-8")
    (version,) = (line for line in text.splitlines() if line.startswith("Version: "))
    control.write_text(text.replace(version, f"Version: {NEWER}"), encoding="utf-8")
    target = work / f"selfware_{NEWER}_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", work / "tree", target], check=True)
    return target


def version_on(machine: Machine) -> str:
    return machine.run("dpkg-query", "-W", "-f", "${Version}", "selfware").stdout


@pytest.mark.skipif(not shutil.which("lintian"), reason="lintian is not installed")
def test_lintian_finds_nothing() -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", installed.deb().resolve()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_installing_enables_and_starts_nothing(box: Machine) -> None:
    assert box.run("systemctl", "is-enabled", "selfware.target").stdout.strip() == "enabled"
    assert not box.run("systemctl", "list-units", "--no-legend", "--state=active", "selfware*.service").stdout


def test_code_is_compiled_when_it_is_installed(box: Machine) -> None:
    for place in ("app/selfware_agent", "vendor/grpc"):
        assert box.exists(f"/usr/lib/selfware/{place}/__pycache__/__init__.cpython-311.pyc")


@pytest.mark.parametrize("page", ["man1/selfwarectl.1", "man5/selfware.toml.5", "man7/selfware.7"])
def test_there_is_a_man_page(box: Machine, page: str) -> None:
    assert box.exists(f"/usr/share/man/{page}.gz")


def test_bash_completes_commands(box: Machine) -> None:
    said = box.shell(
        "set +eu; . /usr/share/bash-completion/bash_completion; _completion_loader selfwarectl\n"
        "COMP_WORDS=(selfwarectl st); COMP_CWORD=1; _selfwarectl_completion selfwarectl; echo ${COMPREPLY[@]}"
    ).stdout
    assert set(said.split()) >= {"status", "start", "stop"}


def test_journalctl_explains_an_event(box: Machine) -> None:
    entry = f"MESSAGE_ID={catalog.DAEMON_GAVE_UP}\nMESSAGE=gave up\nSELFWARE_UNIT=selfware-agent.service\n"
    box.run("logger", "--journald", input=entry)
    box.wait_for(f"journalctl -q MESSAGE_ID={catalog.DAEMON_GAVE_UP} | grep .")
    said = box.run("journalctl", "-x", "--no-pager", f"MESSAGE_ID={catalog.DAEMON_GAVE_UP}").stdout
    assert "journalctl -u selfware-agent.service -n 50" in said
    assert "sudo selfwarectl start" in said


def test_an_upgrade_starts_nothing_that_was_stopped_and_a_downgrade_is_refused(box: Machine, newer: Path) -> None:
    before = version_on(box)
    box.install(newer)
    assert version_on(box) == NEWER
    assert not box.run("systemctl", "list-units", "--no-legend", "--state=active", "selfware*.service").stdout

    older = f"{DEBS}/{installed.deb().name}"
    done = box.run("apt-get", "install", "-y", "--allow-downgrades", older, check=False, timeout=300)
    assert done.returncode != 0
    assert (
        f"version {NEWER} may have written state that this older version {before} cannot read"
        in done.stdout + done.stderr
    )
    assert version_on(box) == NEWER

    box.run("env", "SELFWARE_ALLOW_DOWNGRADE=1", "dpkg", "-i", older, timeout=300)
    assert version_on(box) == before


def test_a_run_goes_on_through_an_upgrade_and_the_action_in_flight_is_not_touched(
    machine_factory: MachineFactory, newer: Path
) -> None:
    count = 40
    with machine_factory() as machine:
        installed.put_on(machine)
        installed.job(machine, "submit", 0, count)
        pids = [machine.main_pid(unit) for unit in installed.UNITS]
        machine.shell("mkdir -p /var/lib/selfware/workspaces/w")
        told: list[dict[str, object]] = []
        script = "echo begin >> log; sleep 20; echo end >> log"
        action = threading.Thread(target=lambda: told.append(installed.script(machine, script)))
        action.start()
        machine.wait_for("grep begin /var/lib/selfware/workspaces/w/log")
        machine.install(newer)
        installed.all_active(machine)
        assert all(new != old for new, old in zip((machine.main_pid(u) for u in installed.UNITS), pids, strict=True))
        action.join(60)
        assert told[0]["ok"], told
        assert machine.read("/var/lib/selfware/workspaces/w/log") == "begin\nend\n"
        installed.job(machine, "wait", count, 240, timeout=300)
        verdict = installed.verdict(machine)
        assert (verdict["lost"], verdict["duplicated"], verdict["gaps"]) == (0, 0, 0), verdict


def test_remove_stops_everything_and_purge_leaves_nothing(machine_factory: MachineFactory) -> None:
    with machine_factory() as machine:
        files = machine.shell(SNAPSHOT).stdout.splitlines()
        accounts = machine.shell("getent passwd | sort; getent group | cut -d: -f1 | sort").stdout.splitlines()
        installed.put_on(machine)
        installed.job(machine, "submit", 0, 3)
        installed.job(machine, "wait", 3, 60)

        machine.run("apt-get", "remove", "-y", "selfware", timeout=120)
        assert not machine.run("systemctl", "list-units", "--no-legend", "--state=active", "selfware*").stdout
        assert not machine.run("pgrep", "-f", "/usr/lib/selfware", check=False).stdout
        assert not machine.exists("/run/selfware")
        assert machine.exists("/var/lib/selfware/checkpointd")

        # What the test itself put there belongs to the administrator.
        machine.shell("rm -r /etc/systemd/system/selfware*.d; systemctl daemon-reload")
        machine.run("apt-get", "purge", "-y", "selfware", timeout=120)
        after = machine.shell("getent passwd | sort; getent group | cut -d: -f1 | sort").stdout.splitlines()
        assert set(after) - set(accounts) <= {GROUP_THAT_STAYS}
        assert set(machine.shell(SNAPSHOT).stdout.splitlines()) - set(files) == set()
