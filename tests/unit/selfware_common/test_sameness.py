"""Memory is compared as Python compares it, and never looked at beyond its end."""

from __future__ import annotations

import random

import pytest

from selfware_common.state.sameness import Sameness


@pytest.mark.parametrize("old_kind", [bytes, bytearray])
@pytest.mark.parametrize("new_kind", [bytes, bytearray])
def test_it_says_what_python_says(
    old_kind: type[bytes] | type[bytearray], new_kind: type[bytes] | type[bytearray]
) -> None:
    chance = random.Random(1)
    data = chance.randbytes(5000)
    changed = bytearray(data)
    changed[3000] ^= 1
    sameness = Sameness(old_kind(data), new_kind(changed))
    for _ in range(500):
        old_at, size = chance.randrange(5000), chance.randrange(2000)
        new_at = old_at if chance.random() < 0.8 else chance.randrange(5000)
        inside = max(old_at, new_at) + size <= 5000
        same = data[old_at : old_at + size] == changed[new_at : new_at + size]
        assert sameness.of(old_at, new_at, size) == (inside and same)


@pytest.mark.parametrize(
    "place", [(0, 0, 101), (50, 0, 51), (0, 50, 51), (-1, 0, 1), (0, -1, 1), (0, 0, -1), (101, 0, 0)]
)
def test_what_lies_outside_is_never_the_same(place: tuple[int, int, int]) -> None:
    assert not Sameness(b"x" * 100, bytearray(b"x" * 100)).of(*place)


def test_a_state_that_is_being_compared_cannot_change_its_size() -> None:
    new = bytearray(b"x" * 100)
    sameness = Sameness(b"x" * 100, new)
    with pytest.raises(BufferError):
        new.extend(bytes(1_000_000))
    assert sameness.of(0, 0, 100)


def test_nothing_is_the_same_as_nothing() -> None:
    assert Sameness(b"", bytearray()).of(0, 0, 0)
    assert not Sameness(b"", b"x").of(0, 0, 1)


def test_an_empty_state_that_grows_meanwhile_is_still_taken_for_empty() -> None:
    grown = bytearray()
    sameness = Sameness(grown, b"abc")
    grown += b"abc"
    assert sameness.of(0, 0, 0)
    assert not sameness.of(0, 0, 3)
