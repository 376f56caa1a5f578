"""A state is put together with little memory, wherever its chunks lie."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from selfware_checkpointd import assembling, packs
from selfware_checkpointd.assembling import Key, Plan, Unpacked
from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.errors import CheckpointCorruptError, ColdAwayError
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store
from tests.unit.selfware_checkpointd.helpers import flip, state


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


def test_a_state_that_was_changed_all_over_is_not_read_again_for_each_of_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, chance, data = Store(tmp_path), random.Random(1), bytearray(state(1, 6_000_000))
    for number in range(1, 21):
        store.save("s", Level.SESSION, number, data, "", number)
        for _ in range(15):
            at = chance.randrange(len(data) - 64)
            data[at : at + 64] = state(number, 64)
    store.tighten()
    info = store.save("s", Level.SESSION, 21, data, "", 21)
    read_bytes, read = 0, assembling.Assembler._read

    def noted(self: assembling.Assembler, pack: object, group: packs.Group, *rest: object) -> Unpacked:
        nonlocal read_bytes
        read_bytes += sum(group.lengths)
        return read(self, pack, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(assembling.Assembler, "_read", noted)
    monkeypatch.setattr(assembling, "KEPT_BYTES", 1_500_000)
    with store.reading(info.checkpoint_id) as (_, pieces):
        assert b"".join(pieces) == data
    size = len(data)
    assert read_bytes < 10 * size, "once for each time that the memory was full, and not for each chunk"


def test_what_an_ended_reader_left_to_be_read_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reads, may_go = Store(tmp_path), list[int](), threading.Event()
    store.save("s", Level.SESSION, 1, state(1, 4_000_000), "", 1)
    read = assembling.Assembler._read

    def slow(self: assembling.Assembler, pack: object, group: packs.Group, *rest: object) -> Unpacked:
        reads.append(group.first)
        assert not reads[1:] or may_go.wait(20)
        return read(self, pack, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(assembling.Assembler, "_read", slow)
    monkeypatch.setattr(assembling, "BATCH_BYTES", 600_000)
    with store.reading("ckpt-00000001") as (_, pieces):
        monkeypatch.setattr(assembling, "AHEAD_BYTES", 3_000_000)
        taker = threading.Thread(target=next, args=(pieces,))
        taker.start()
        while len(reads) < 2:
            taker.join(0.01)
    may_go.set()
    taker.join(20)
    store._assembler._threads.submit(int).result(20)  # whoever comes next has his turn at once
    assert len(reads) <= 3, "each thread ended what it was at"


def test_damage_is_told_before_what_stands_behind_it_is_found_to_be_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first, second = state(1, 100_000), state(2, 100_000)
    store.save("s", Level.SESSION, 1, first, "", 1)
    store.save("s", Level.SESSION, 2, first + second, "", 2)
    flip(tmp_path / "ckpt-00000001.pack", 5_000)
    read = assembling.Assembler._read

    def away(self: assembling.Assembler, pack: Pack, group: packs.Group, *rest: object) -> Unpacked:
        if pack.path.stem == "ckpt-00000002":
            raise ColdAwayError(place="there", reason="it is away")
        return read(self, pack, group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(assembling.Assembler, "_read", away)
    with pytest.raises(CheckpointCorruptError), store.reading("ckpt-00000002") as (_, pieces):
        b"".join(pieces)
    assert store._catalog.lost[1], "and the next save builds on none of it"
