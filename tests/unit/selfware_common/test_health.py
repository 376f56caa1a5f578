"""Components of a daemon: when they count as sick, what that means for the daemon, and what is done about it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from selfware_common import catalog
from selfware_common.health import Check, Component, Health, Severity, State, judged, overall, room
from selfware_common.settings import HealthCheck

OFTEN = HealthCheck(interval_seconds=0.0, timeout_seconds=0.05, failure_threshold=3)


class Part:
    """A component whose state the test sets."""

    def __init__(self) -> None:
        self.wrong = ""
        self.looks = 0
        self.remedies = 0

    async def probe(self) -> str:
        self.looks += 1
        if self.wrong == "hangs":
            await asyncio.sleep(60)
        return self.wrong

    async def remedy(self) -> str:
        self.remedies += 1
        return f"did something, for the {self.remedies}. time"


def test_a_component_is_degraded_at_once_and_unhealthy_at_the_threshold() -> None:
    one, states = Component("part"), []
    for number, reason in enumerate(["broken", "broken", "broken", "broken", "", "broken"], 1):
        one = judged(one, reason, 3, number)
        states.append((one.state.value, one.failures, one.since_unix_nanos))
    assert states == [
        ("degraded", 1, 1),
        ("degraded", 2, 1),
        ("unhealthy", 3, 3),
        ("unhealthy", 4, 3),
        ("healthy", 0, 5),
        ("degraded", 1, 6),
    ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], State.HEALTHY),
        ([(Severity.CRITICAL, State.HEALTHY), (Severity.WARNING, State.HEALTHY)], State.HEALTHY),
        ([(Severity.CRITICAL, State.DEGRADED)], State.DEGRADED),
        ([(Severity.WARNING, State.UNHEALTHY)], State.DEGRADED),
        ([(Severity.CRITICAL, State.UNHEALTHY), (Severity.WARNING, State.HEALTHY)], State.UNHEALTHY),
    ],
)
def test_only_a_critical_component_makes_the_daemon_unhealthy(
    states: list[tuple[Severity, State]], expected: State
) -> None:
    assert overall(Component("part", severity, state) for severity, state in states) is expected


def test_the_remedy_is_tried_at_the_threshold_and_every_so_many_failures_after_it() -> None:
    async def scenario() -> list[list[str]]:
        part = Part()
        health = Health([Check("part", part.probe, remedy=part.remedy)], OFTEN)
        said = []
        for wrong in ["", "broken", "broken", "broken", "broken", "broken", "broken", ""]:
            part.wrong = wrong
            said.append([finding.sentence for finding in await health.look()])
        return said

    assert asyncio.run(scenario()) == [
        [],
        ["part is degraded: broken"],
        [],
        ["part is unhealthy: broken", "did something, for the 1. time"],
        [],
        [],
        ["did something, for the 2. time"],
        ["part is healthy again"],
    ]


def test_a_check_that_takes_too_long_has_failed_and_does_not_hold_up_the_others() -> None:
    async def scenario() -> Health:
        slow, quick = Part(), Part()
        slow.wrong = "hangs"
        health = Health([Check("slow", slow.probe), Check("quick", quick.probe)], OFTEN)
        async with asyncio.timeout(5):
            await health.look()
        return health

    health = asyncio.run(scenario())
    assert health.components["slow"].reason == "it did not answer within 0.05 s"
    assert (health.components["slow"].state, health.components["quick"].state) == (State.DEGRADED, State.HEALTHY)


def test_each_check_has_its_own_interval() -> None:
    async def scenario() -> tuple[int, int, float]:
        often, seldom = Part(), Part()
        checks = [Check("often", often.probe), Check("seldom", seldom.probe, interval_seconds=3600)]
        health = Health(checks, OFTEN)
        for _ in range(3):
            await health.look()
        return often.looks, seldom.looks, health.seconds_until_due()

    assert asyncio.run(scenario()) == (3, 1, 0.0)


def test_without_checks_nothing_is_ever_due() -> None:
    assert Health([], OFTEN).seconds_until_due() == float("inf")
    assert Health([], OFTEN).state is State.HEALTHY


def test_a_disk_without_room_is_told_with_its_path(tmp_path: Path) -> None:
    assert asyncio.run(room(tmp_path, 1, 1).probe()) == ""
    full = room(tmp_path, 2**62, 1)
    assert str(tmp_path) in asyncio.run(full.probe())
    assert (full.event, full.fields) == (catalog.DISK_FULL, {"path": str(tmp_path)})
