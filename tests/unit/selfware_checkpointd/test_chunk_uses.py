"""Counting what living checkpoints need: what reading every manifest gives, at the cost of the new ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selfware_checkpointd.chunk_uses import ChunkUses
from selfware_checkpointd.manifest import Run

runs = st.lists(st.builds(Run, st.integers(1, 4), st.integers(0, 9), st.integers(1, 5)), max_size=4)
changes = st.lists(st.one_of(runs, st.integers(0, 5)), max_size=30)  # one comes with these runs, or one goes


@given(changes, st.booleans())
def test_whoever_comes_and_goes_the_counts_are_those_of_the_living(
    steps: list[list[Run] | int], settling: bool
) -> None:
    living: dict[int, list[Run]] = {}
    uses = ChunkUses(lambda number: living[number])
    for number, step in enumerate(steps, 1):
        if isinstance(step, list):
            living[number] = step
            uses.expect(number)
        elif living:
            going = list(living)[step % len(living)]
            uses.leave(going)
            del living[going]
        if settling:
            uses.settle(1)
    while uses.settle(2):
        pass
    for pack in range(1, 5):
        needed = {
            n
            for own in living.values()
            for run in own
            if run.pack == pack
            for n in range(run.first, run.first + run.count)
        }
        assert uses.alive(pack, range(20)) == needed
        assert uses.is_used(pack) == bool(needed)


def test_before_all_are_counted_everything_is_needed() -> None:
    uses = ChunkUses(lambda number: [Run(1, 0, 2)])
    uses.expect(1)
    assert uses.is_used(7)
    assert uses.alive(7, range(3)) == {0, 1, 2}
    assert not uses.settle(8)
    assert not uses.is_used(7)


def test_one_that_cannot_be_read_needs_whatever_is_older_until_it_can_or_goes() -> None:
    readable = False

    def runs_of(number: int) -> list[Run]:
        if number == 5 and not readable:
            raise ValueError
        return [Run(number, 0, 1)]

    uses = ChunkUses(runs_of)
    for number in (1, 5):
        uses.expect(number)
    uses.settle(8)
    assert uses.is_used(4)
    assert not uses.is_used(6)
    readable = True
    uses.settle(8)
    assert not uses.is_used(4)
    readable = False
    uses.leave(5)  # what it used is not known now: all others are counted anew
    assert uses.is_used(4)
    uses.settle(8)
    assert not uses.is_used(4)
    assert not uses.is_used(5)
    assert uses.is_used(1)
