"""A state is put together with little memory, wherever its chunks lie."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from selfware_checkpointd import assembling, packs
from selfware_checkpointd.assembling import Key, Plan, Unpacked
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store
from tests.unit.selfware_checkpointd.helpers import state


def scattered(store: Store) -> bytes:
    """A state of which each pack holds a piece at the beginning, one in the middle and one at the end."""
    data = state(1, 2_000_000)
    store.save("s", Level.SESSION, 1, data, "", 1)
    for number in range(2, 8):
        at = number * 150_000
        data = state(number, 30_000) + data[:at] + state(number + 50, 30_000) + data[at:] + state(number + 100, 90_000)
        store.save("s", Level.SESSION, number, data, "", number)
    return data


def test_groups_that_are_wanted_again_are_kept_as_far_as_memory_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    data = scattered(store)
    store.tighten()
    reads: Counter[Key] = Counter()
    most = 0
    read, put = assembling.Assembler._read, assembling._Kept.put

    def noted(self: assembling.Assembler, pack: object, group: packs.Group, *rest: object) -> Unpacked:
        reads[id(pack), group.first] += 1
        return read(self, pack, group, *rest)  # type: ignore[arg-type]

    def measured(self: assembling._Kept, groups: dict[Key, Unpacked]) -> None:
        nonlocal most
        put(self, groups)
        most = max(most, self._bytes)

    monkeypatch.setattr(assembling.Assembler, "_read", noted)
    monkeypatch.setattr(assembling._Kept, "put", measured)
    assert store.load("ckpt-00000007")[1] == data
    assert set(reads.values()) == {1}, "each is read once if they all fit"
    largest, all_of_them = 2_000_000, most
    store._hot.forget(7)
    monkeypatch.setattr(assembling, "KEPT_BYTES", largest + 200_000)
    reads.clear()
    most = 0
    assert store.load("ckpt-00000007")[1] == data
    assert most <= largest + 200_000 < all_of_them
    assert max(reads.values()) > 1


def test_reading_ahead_stops_where_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    data = scattered(store)
    ahead: list[int] = []
    batches = assembling._batches

    def counted(plan: Plan) -> object:
        for size, batch in batches(plan):
            ahead.append(size)
            yield size, batch

    monkeypatch.setattr(assembling, "_batches", counted)
    monkeypatch.setattr(assembling, "BATCH_BYTES", 100_000)
    monkeypatch.setattr(assembling, "AHEAD_BYTES", 300_000)
    with store.reading("ckpt-00000007") as (_, pieces):
        first = bytes(next(pieces))
        assert sum(ahead) < 300_000 + 2 * packs.GROUP_BYTES
        assert first + b"".join(pieces) == data
    assert sum(ahead) >= len(data)
