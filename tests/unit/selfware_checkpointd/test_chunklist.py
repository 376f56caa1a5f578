"""Which chunk lists stay in memory: those of large states, however many small ones come between."""

from __future__ import annotations

import pytest

from selfware_checkpointd import chunklist
from selfware_checkpointd.chunklist import ChunkList, Newest


def chunks(count: int) -> ChunkList:
    made = ChunkList()
    for index in range(count):
        made.add(index.to_bytes(32, "little"), 10, 1, index)
    return made


def test_the_list_of_a_session_outlives_the_micro_checkpoints_until_the_next_one() -> None:
    newest = Newest()
    newest.put(1, chunks(3_000))
    for number in range(2, 50):
        newest.put(number, chunks(2))
    assert newest.get(1) is not None


def test_all_lists_together_stay_small_but_two_always_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunklist, "MOST_CHUNKS", 100)
    newest = Newest()
    for number in range(1, 9):
        newest.put(number, chunks(40))
    assert [number for number in range(1, 9) if newest.get(number)] == [7, 8]
    newest.put(9, chunks(500))
    assert [number for number in range(1, 10) if newest.get(number)] == [8, 9]
