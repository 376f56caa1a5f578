"""The units themselves, on a machine where they are installed: well formed, and as closed as we say."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.system import installed
from tests.system.conftest import MachineFactory
from tests.system.machine import Machine

CEILINGS = {
    "selfware-agent.service": 1.2,
    "selfware-oversightd.service": 1.2,
    "selfware-checkpointd.service": 1.2,
    "selfware-resourced.service": 1.2,
    "selfware-tool@x.service": 1.2,
    "selfware-inferenced.service": 2.0,
    "selfware-engine@x.service": 2.0,
    "selfware-escalate@x.service": 2.0,
}
"""Highest exposure that `systemd-analyze security` may find, 0 (closed) to 10."""


@pytest.fixture(scope="module")
def box(machine_factory: MachineFactory) -> Iterator[Machine]:
    with machine_factory() as machine:
        installed.put_on(machine, start=False)
        yield machine


def test_systemd_has_nothing_to_say_about_any_unit(box: Machine) -> None:
    names = sorted(
        path.name.replace("@.", "@x.") for path in (installed.ROOT / "units").glob("selfware*.*") if path.is_file()
    )
    assert len(names) >= 14
    done = box.run("systemd-analyze", "verify", "--man=no", *names, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("unit", "ceiling"), CEILINGS.items())
def test_no_unit_is_more_exposed_than_its_ceiling(box: Machine, unit: str, ceiling: float) -> None:
    done = box.run("systemd-analyze", "security", "--no-pager", f"--threshold={int(ceiling * 10)}", unit, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_every_service_has_a_ceiling(box: Machine) -> None:
    found = box.run("systemctl", "list-unit-files", "selfware-*.service", "-o", "json").stdout
    names = {unit["unit_file"].replace("@.", "@x.") for unit in json.loads(found)}
    assert names == set(CEILINGS)


def test_no_unit_runs_as_root(box: Machine) -> None:
    users = {unit: box.unit_property(unit, "User") for unit in CEILINGS}
    assert all(user.startswith("selfware-") for user in users.values()), users
    daemons = [users[f"selfware-{name}.service"] for name in installed.DAEMONS]
    assert len(set(daemons)) == len(daemons)


def test_memory_goes_first_to_actions_and_last_to_those_who_remember(box: Machine) -> None:
    order = ["tool@x", "engine@x", "inferenced", "resourced", "checkpointd"]
    scores = [int(box.unit_property(f"selfware-{name}.service", "OOMScoreAdjust")) for name in order]
    assert scores == sorted(scores, reverse=True)
    assert box.unit_property("selfware-oversightd.service", "OOMScoreAdjust") == "-900"
