"""Who goes first, who is admitted, who gives way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfware_inferenced.queue import Priority, admitted, in_order, victims

LOW, NORMAL, HIGH, CRITICAL = Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.CRITICAL


@dataclass(frozen=True)
class One:
    priority: Priority
    arrival: int


ones = st.lists(
    st.builds(One, st.sampled_from(Priority), st.integers(1, 1000)), unique_by=lambda one: one.arrival, max_size=30
)


def test_higher_priorities_go_first_and_inside_one_the_first_to_come() -> None:
    waiting = [One(LOW, 1), One(HIGH, 4), One(NORMAL, 2), One(HIGH, 3), One(CRITICAL, 5)]
    assert [one.arrival for one in in_order(waiting)] == [5, 3, 4, 2, 1]


@given(ones)
def test_the_order_never_lets_a_lower_priority_or_a_later_arrival_pass(waiting: list[One]) -> None:
    ordered = in_order(waiting)
    assert set(ordered) == set(waiting)
    for first, second in pairwise(ordered):
        assert (first.priority, -first.arrival) > (second.priority, -second.arrival)


@given(ones, st.integers(0, 10), st.integers(1, 10))
def test_never_more_run_than_the_limit_and_no_slot_stays_empty(waiting: list[One], running: int, limit: int) -> None:
    chosen = admitted(in_order(waiting), running, limit)
    assert len(chosen) == min(len(waiting), max(0, limit - running))


@pytest.mark.parametrize(
    ("running", "leaving", "expected"),
    [
        ([One(HIGH, 1), One(LOW, 2)], 0, [2]),
        ([One(NORMAL, 1), One(NORMAL, 2)], 0, [2]),
        ([One(CRITICAL, 1), One(CRITICAL, 2)], 0, []),
        ([One(NORMAL, 1)], 1, []),
    ],
    ids=["the lowest", "the youngest among equals", "never a critical one", "one that leaves already is enough"],
)
def test_the_weakest_gives_way_to_a_critical_one(running: list[One], leaving: int, expected: list[int]) -> None:
    assert [victim.arrival for victim, _ in victims([One(CRITICAL, 9)], running, leaving)] == expected


def test_only_critical_ones_make_others_give_way() -> None:
    assert victims([One(HIGH, 9)], [One(LOW, 1)], 0) == []


@given(ones, ones, st.integers(0, 3))
def test_no_more_give_way_than_critical_ones_wait(waiting: list[One], running: list[One], leaving: int) -> None:
    pairs = victims(in_order(waiting), running, leaving)
    critical = sum(one.priority is CRITICAL for one in waiting)
    assert len(pairs) <= max(0, critical - leaving)
    assert all(victim.priority < newcomer.priority for victim, newcomer in pairs)
    assert len({victim.arrival for victim, _ in pairs}) == len(pairs)
