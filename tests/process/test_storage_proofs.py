"""A seeded sample of the two proofs about checkpointd's files; the full counts run through `make prove`."""

from __future__ import annotations

from tests.prove import bitflips, crashmatrix


def test_whatever_happens_to_a_write_nothing_acknowledged_is_lost_and_work_goes_on() -> None:
    verdict = crashmatrix.prove(rounds=2, seed=1, steps=4, kills=6)  # one of them with a cold tier
    assert verdict.faults > 300
    assert verdict.ok, verdict


def test_whichever_bit_turns_over_nothing_wrong_is_read_without_a_word() -> None:
    verdict = bitflips.prove(rounds=80, seed=1, at_once=1)
    assert verdict.faults == 80
    assert verdict.ok, verdict
