"""The hot tier: the last states stay in memory within the budget, and are verified when they are read."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakSet

import pytest

from selfware_checkpointd import hot
from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.hot import MOST_OF_A_KIND, Hot
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store, Subject
from tests.unit.selfware_checkpointd.helpers import flip, state
from tests.unit.selfware_checkpointd.test_scrub import whole_pass

KIND = ("alpha", Level.SESSION)


def put(store: Store, data: bytes, sequence: int) -> str:
    """As a client that keeps nothing saves."""

    def read(room: memoryview, at: int) -> int:
        part = data[at : at + len(room)]
        room[: len(part)] = part
        return len(part)

    return store.save_from(Subject("alpha", Level.SESSION, sequence, "", 0), len(data), read).checkpoint_id


def without_packs(directory: Path) -> None:
    for path in directory.glob("*.pack"):
        path.write_bytes(b"")


def test_the_last_five_are_restored_without_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    states = [state(number) for number in range(7)]
    names = [put(store, data, number) for number, data in enumerate(states)]
    without_packs(tmp_path)
    for name, data in zip(names[-MOST_OF_A_KIND:], states[-MOST_OF_A_KIND:], strict=True):
        assert store.load(name)[1] == data
    for name in names[:-MOST_OF_A_KIND]:
        with pytest.raises(CheckpointCorruptError):
            store.load(name)


def test_damage_on_the_disk_heals_from_memory(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, state(1), 1)
    flip(tmp_path / "ckpt-00000001.pack", 100_000)
    assert "healed 1" in whole_pass(store)
    assert Store(tmp_path).load("ckpt-00000001")[1] == state(1)


def test_what_is_verified_is_read_from_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = put(store, state(1), 1)
    without_packs(tmp_path)
    assert not store.verify(name).intact


def test_memory_that_is_not_right_any_more_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = put(store, state(1), 1)
    room = store._hot.get(KIND, 1)
    assert room is not None
    room[1000] ^= 1
    assert store.load(name)[1] == state(1)


def test_a_state_that_is_being_read_is_not_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._hot = Hot(budget_bytes=1_300_000)
    first = put(store, state(1), 1)
    with store.reading(first) as (_, pieces):
        for number in range(2, 8):
            put(store, state(number), number)
        assert b"".join(pieces) == state(1)


def test_all_of_it_stays_within_the_budget(tmp_path: Path) -> None:
    hot = Hot(budget_bytes=1_000_000)
    for number in range(30):
        size = 20_000 * (1 + number % 9)
        room = hot.room(size)
        assert room is not None
        hot.put(("s", Level(1 + number % 4)), number, room, size)
        hot.keep(KIND, 1000 + number, bytes(50_000))
        assert hot._bytes() <= 1_000_000
    assert hot.room(600_000) is None


def test_a_state_is_deleted_from_memory_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, state(1), 1)
    put(store, state(2), 2)
    store.delete([1])
    assert store._hot.pin(1) is None


def test_memory_for_a_larger_state_is_not_made_while_what_makes_room_for_it_is_still_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New memory is written to as it is made, so both would count."""
    made: WeakSet[Noted] = WeakSet()
    together: list[int] = []

    class Noted(bytearray):
        def __init__(self, size: int = 0) -> None:
            together.append(size + sum(len(one) for one in made))
            super().__init__(size)
            made.add(self)

        def __hash__(self) -> int:
            return id(self)

    monkeypatch.setattr(hot, "bytearray", Noted, raising=False)
    kept = Hot(100_000)
    for number, size in enumerate((20_000, 22_000, 24_000, 28_000, 35_000)):
        room = kept.room(size, KIND)
        assert room is not None
        kept.put(KIND, number, room, size)
        del room
    assert max(together) <= 100_000
