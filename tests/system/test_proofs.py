"""A seeded sample of each long proof that needs a booted machine; `make prove` runs them at full count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prove import calls, powercut, runaways, systemd_kills
from tests.system.image import Disk

SEED = 20261125


def test_whatever_is_killed_or_hangs_comes_back_and_the_job_goes_on(image: Path) -> None:
    assert systemd_kills.prove(rounds=8, seed=SEED, timed=False).ok


def test_no_call_is_lost_while_daemons_are_killed_and_restarted(image: Path) -> None:
    assert calls.prove(rounds=3, seed=SEED).ok


@pytest.mark.qemu
@pytest.mark.timeout(1800)
def test_a_runaway_dies_alone(disk: Disk) -> None:
    assert runaways.prove(rounds=20, seed=SEED).ok


@pytest.mark.qemu
@pytest.mark.timeout(1800)
def test_pulling_the_plug_costs_nothing_that_was_acknowledged(disk: Disk) -> None:
    assert powercut.prove(rounds=1, seed=SEED).ok
