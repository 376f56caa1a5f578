"""A seeded sample of each long proof; the full counts run through `make prove`."""

from __future__ import annotations

import asyncio

import pytest

from selfware_tool.probe import probe
from tests.prove import effects, kills, rewind, rewind_agent

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def sandbox() -> None:
    found = probe()
    if not found.available:
        pytest.skip(f"{found.sentence} {found.hint}")


@pytest.mark.usefixtures("sandbox")
def test_kill_9_of_any_process_leaves_no_trace_in_events_state_and_workspace() -> None:
    verdict = asyncio.run(kills.prove(rounds=10, seed=1))
    assert verdict.ok, verdict


@pytest.mark.usefixtures("sandbox")
def test_an_interrupted_action_has_each_of_its_effects_exactly_once() -> None:
    verdict = asyncio.run(effects.prove(rounds=6, seed=1))
    assert verdict.ok, verdict


def test_a_workspace_and_its_conversation_can_be_taken_back_to_any_step() -> None:
    verdict = rewind.prove(rounds=25, seed=1)
    assert verdict.ok, verdict


@pytest.mark.usefixtures("sandbox")
def test_the_agent_and_its_files_can_be_taken_back_to_any_step_and_forked() -> None:
    verdict = asyncio.run(rewind_agent.prove(rounds=5, seed=2))
    assert verdict.ok, verdict
