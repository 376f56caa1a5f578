"""A seeded sample of each long proof; the full counts run through `make prove`."""

from __future__ import annotations

import asyncio

import pytest

from selfware_tool.probe import probe
from tests.prove import effects, kills

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def sandbox() -> None:
    found = probe()
    if not found.available:
        pytest.skip(f"{found.sentence} {found.hint}")


def test_kill_9_of_any_process_leaves_no_trace_in_events_state_and_workspace() -> None:
    verdict = asyncio.run(kills.prove(rounds=10, seed=1))
    assert verdict.ok, verdict


def test_an_interrupted_action_has_each_of_its_effects_exactly_once() -> None:
    verdict = asyncio.run(effects.prove(rounds=6, seed=1))
    assert verdict.ok, verdict
