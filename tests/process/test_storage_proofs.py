"""A seeded sample of the proofs about checkpointd's files; the full counts run through `make prove`."""

from __future__ import annotations

import math

import pytest

from tests.prove import bitflips, crashmatrix, week
from tests.prove.keys import encrypted

STORES = pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])


@STORES
def test_whatever_happens_to_a_write_nothing_acknowledged_is_lost_and_work_goes_on(is_encrypted: bool) -> None:
    with encrypted(is_encrypted):
        verdict = crashmatrix.prove(rounds=2, seed=1, steps=4, kills=6)  # one of them with a cold tier
    assert verdict.faults > 300
    assert verdict.ok, verdict


@STORES
def test_whichever_bit_turns_over_nothing_wrong_is_read_without_a_word(is_encrypted: bool) -> None:
    verdict = bitflips.prove(rounds=80, seed=1, at_once=1, is_encrypted=is_encrypted)
    assert verdict.faults == 80
    assert verdict.ok, verdict


def test_whatever_is_saved_for_however_long_the_limit_holds_and_everything_left_is_whole() -> None:
    sizes = week.Sizes(session=(600_000, 3_000_000), task=(200_000, 1_000_000), micro=(2_000, 20_000))
    verdict = week.prove(rounds=5, seed=1, sizes=sizes, limits={"binding": 8 * 2**20}, most_ratio=math.inf)
    assert verdict.ok, verdict
