"""A seeded sample of the two proofs about checkpointd's files; the full counts run through `make prove`."""

from __future__ import annotations

import pytest

from tests.prove import bitflips, crashmatrix
from tests.prove.keys import encrypted

STORES = pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])


@STORES
def test_whatever_happens_to_a_write_nothing_acknowledged_is_lost_and_work_goes_on(is_encrypted: bool) -> None:
    with encrypted(is_encrypted):
        verdict = crashmatrix.prove(rounds=1, seed=1, steps=4, kills=6)
    assert verdict.faults > 300
    assert verdict.ok, verdict


@STORES
def test_whichever_bit_turns_over_nothing_wrong_is_read_without_a_word(is_encrypted: bool) -> None:
    verdict = bitflips.prove(rounds=80, seed=1, at_once=1, is_encrypted=is_encrypted)
    assert verdict.faults == 80
    assert verdict.ok, verdict
