"""States that stay in memory never take more of it than their budget, whoever saves what in which order."""

from __future__ import annotations

import random

import pytest

from selfware_checkpointd.hot import Hot
from selfware_checkpointd.manifest import Level

BUDGET = 1_000_000


def held_bytes(hot: Hot) -> int:
    return len(hot._spare) + sum(len(state.room) for state in hot._states.values())


@pytest.mark.parametrize("seed", range(20))
def test_all_memory_together_stays_within_the_budget(seed: int) -> None:
    chance, hot = random.Random(seed), Hot(BUDGET)
    for number in range(300):
        kind = (chance.choice("abcd"), Level.SESSION)
        size = chance.choice((1, 1000, 90_000, 200_000, 440_000))
        room = hot.room(size, kind)
        assert room is not None
        assert held_bytes(hot) + len(room) <= BUDGET
        if chance.random() < 0.2:
            hot.give_back(room)
        else:
            hot.put(kind, number, room, size)
            assert hot.get(kind, number) is room
        assert held_bytes(hot) <= BUDGET


def test_the_state_before_stays_while_the_next_one_comes_in() -> None:
    hot = Hot(BUDGET)
    sizes = {"a": 200_000, "b": 400_000}
    for number, (session, size) in enumerate(sizes.items()):
        room = hot.room(size, (session, Level.SESSION))
        assert room is not None
        hot.put((session, Level.SESSION), number, room, size)
    assert hot.room(300_000, ("a", Level.SESSION)) is not None, "b has to go for it"
    assert hot.get(("a", Level.SESSION), 0) is not None
    assert hot.get(("b", Level.SESSION), 1) is None


def test_a_state_that_does_not_fit_twice_does_not_stay() -> None:
    assert Hot(BUDGET).room(600_000, ("a", Level.SESSION)) is None
