"""What [supervision] in selfware.toml makes systemd do: seen by killing a daemon and asking systemd."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.system import installed
from tests.system.conftest import MachineFactory
from tests.system.machine import Machine

ORDER = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")


@pytest.fixture(scope="module")
def box(machine_factory: MachineFactory) -> Iterator[Machine]:
    with machine_factory() as machine:
        installed.put_on(machine)
        yield machine


def configure(box: Machine, text: str) -> None:
    """Put it in force, everything running anew."""
    box.write("/etc/selfware/selfware.toml.d/supervision.toml", text)
    box.run("systemctl", "daemon-reload")
    box.run("selfwarectl", "stop", timeout=120)
    box.shell("systemctl reset-failed 'selfware-*'; rm -f /run/selfware/*/backoff", check=False)
    box.run("systemctl", "start", "selfware.target", timeout=120)
    installed.all_active(box)


def pids(box: Machine) -> dict[str, int]:
    return {name: box.main_pid(f"selfware-{name}.service") for name in ORDER}


def restarted_by_killing(box: Machine, victim: str) -> set[str]:
    """Which daemons have another process after one was killed."""
    before = pids(box)
    box.run("kill", "-9", str(before[victim]))
    box.wait_for(
        f"p=$(systemctl show --value -p MainPID selfware-{victim}); [ $p != 0 ] && [ $p != {before[victim]} ]", 30
    )
    installed.all_active(box)
    after = pids(box)
    return {name for name in ORDER if before[name] != after[name]}


def test_one_for_one_restarts_the_one_that_died(box: Machine) -> None:
    configure(box, '[supervision]\nstrategy = "OneForOne"\nmax_restarts = 50\n')
    assert restarted_by_killing(box, "oversightd") == {"oversightd"}


def test_one_for_all_restarts_everyone(box: Machine) -> None:
    configure(box, '[supervision]\nstrategy = "OneForAll"\nmax_restarts = 50\n')
    assert restarted_by_killing(box, "inferenced") == set(ORDER)


def test_rest_for_one_restarts_those_that_start_after_it(box: Machine) -> None:
    configure(box, '[supervision]\nstrategy = "RestForOne"\nmax_restarts = 50\n')
    assert restarted_by_killing(box, "oversightd") == {"oversightd", "inferenced", "agent"}


@pytest.mark.parametrize(
    ("kind", "delays"),
    [("Fixed", [0.0, 1.0, 1.0, 1.0]), ("Linear", [0.0, 1.0, 2.0, 3.0]), ("Exponential", [0.0, 1.0, 2.0, 4.0])],
)
def test_each_backoff_waits_as_it_says(box: Machine, kind: str, delays: list[float]) -> None:
    """The first restart is at once; what follows soon after waits."""
    backoff = f'[supervision.backoff_strategy]\ntype = "{kind}"\nbase_seconds = 1\nmax_seconds = 10\n'
    configure(box, f"[supervision]\nmax_restarts = 50\nmax_seconds = 600\n{backoff}")
    for wanted in delays:
        before = box.main_pid("selfware-resourced.service")
        began = time.monotonic()
        box.run("kill", "-9", str(before))
        box.wait_for(
            "p=$(systemctl show --value -p MainPID selfware-resourced); "
            f"[ $p != 0 ] && [ $p != {before} ] && systemctl is-active -q selfware-resourced",
            30,
        )
        took = time.monotonic() - began
        assert took >= wanted, (kind, wanted, took)
        assert took < wanted + 5, (kind, wanted, took)


def test_when_the_limit_is_hit_operators_are_told_and_one_command_brings_it_back(box: Machine) -> None:
    installed.job(box, "submit", 0, 3)
    installed.job(box, "wait", 3, 60)
    events = installed.verdict(box)["events"]
    configure(
        box, "[supervision]\nmax_restarts = 3\nmax_seconds = 600\n[supervision.backoff_strategy]\nbase_seconds = 0\n"
    )
    for _ in range(4):
        box.shell("systemctl kill -s KILL selfware-agent", check=False)
        box.wait_for("systemctl is-active -q selfware-agent || systemctl is-failed -q selfware-agent", 30)
    box.wait_for(
        "systemctl is-failed -q selfware-agent && ls /run/selfware/escalations/selfware-agent.service.json", 30
    )
    assert box.run("systemctl", "is-active", "selfware.target").stdout.strip() == "active"
    said = box.run("selfwarectl", "status").stdout
    assert "selfware-agent.service failed for good" in said
    assert "checkpointd" in said
    assert "selfware-agent.service failed for good" in box.journal("selfware-escalate@*")
    explained = box.run("journalctl", "-x", "-u", "selfware-escalate@*", "--no-pager").stdout
    assert "selfwarectl start" in explained
    box.run("selfwarectl", "start", timeout=120)
    installed.all_active(box)
    assert "failed for good" not in box.run("selfwarectl", "status").stdout
    assert installed.verdict(box)["events"] >= events


def test_a_broken_file_breaks_nothing_and_is_said(box: Machine) -> None:
    box.write("/etc/selfware/selfware.toml.d/supervision.toml", '[supervision]\nstrategi = "x"\n')
    box.run("systemctl", "daemon-reload")
    assert box.run("systemctl", "is-active", "selfware.target").stdout.strip() == "active"
    assert box.unit_property("selfware-agent.service", "Restart") == "on-failure"
    box.run("rm", "/etc/selfware/selfware.toml.d/supervision.toml")
    box.run("systemctl", "daemon-reload")
