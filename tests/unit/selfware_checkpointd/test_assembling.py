"""A state is put together with little memory, wherever its chunks lie."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfware_checkpointd import kept, packs
from selfware_checkpointd.assembling import Whole
from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.errors import CheckpointCorruptError, ColdAwayError
from selfware_checkpointd.kept import Kept
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.plans import Key
from selfware_checkpointd.store import Store
from selfware_checkpointd.unpacking import Unpacked, Unpacker
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


def in_order(store: Store, name: str) -> bytes:
    with store.reading(name) as (_, pieces):
        return b"".join(pieces)


def noted(monkeypatch: pytest.MonkeyPatch, note: Any) -> None:
    """Call ``note(pack, group)`` before each group is read."""
    unpacked = Unpacker.unpacked

    def noting(self: Unpacker, pack: Pack, group: packs.Group, *rest: Any) -> Unpacked:
        note(pack, group)
        return unpacked(self, pack, group, *rest)

    monkeypatch.setattr(Unpacker, "unpacked", noting)


def test_groups_that_are_wanted_again_are_kept_as_far_as_memory_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    data = scattered(store)
    store.tighten()
    reads: Counter[Key] = Counter()
    noted(monkeypatch, lambda pack, group: reads.update([(id(pack), group.first)]))
    most, put = 0, Kept.put

    def measured(self: Kept, key: Key, group: Unpacked) -> None:
        nonlocal most
        put(self, key, group)
        most = max(most, self._bytes)

    monkeypatch.setattr(Kept, "put", measured)
    assert in_order(store, "ckpt-00000007") == data
    assert set(reads.values()) == {1}, "each is read once if they all fit"
    largest, all_of_them = 2_000_000, most
    monkeypatch.setattr(kept, "KEPT_BYTES", largest + 200_000)
    reads.clear()
    most = 0
    assert in_order(store, "ckpt-00000007") == data
    assert most <= largest + 200_000 < all_of_them
    assert max(reads.values()) > 1
    reads.clear()
    assert store.load("ckpt-00000007")[1] == data
    assert set(reads.values()) == {1}, "what is put where it belongs is read once, however little memory there is"


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
    read_bytes: list[int] = []
    noted(monkeypatch, lambda _, group: read_bytes.append(sum(group.lengths)))
    monkeypatch.setattr(kept, "KEPT_BYTES", 1_500_000)
    assert in_order(store, info.checkpoint_id) == data
    assert sum(read_bytes) < 10 * len(data), "once for each time that the memory was full, and not for each chunk"


@pytest.mark.parametrize("by_helper", [False, True])
def test_when_one_of_the_two_cannot_go_on_the_other_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_helper: bool
) -> None:
    store, me, both = Store(tmp_path), threading.current_thread(), threading.Barrier(2, timeout=20)
    store.save("s", Level.SESSION, 1, state(1, 8_000_000), "", 1)
    reads: list[int] = []
    failed = threading.Event()

    def slow(_: Pack, group: packs.Group) -> None:
        reads.append(group.first)
        if len(reads) <= 2:
            both.wait()
        if (threading.current_thread() is me) == by_helper:
            assert failed.wait(20)

    noted(monkeypatch, slow)

    def full(*_: object) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        store.restore("ckpt-00000001", full)
    assert len(reads) <= 3
    reads.clear()
    both.reset()
    failed.set()
    assert store.load("ckpt-00000001")[1] == state(1, 8_000_000), "and the next one is helped again"


class SlowRestore:
    """Of the first checkpoint, which is under way until it may end."""

    def __init__(self, store: Store) -> None:
        self.whole, self.may_end, begun = Whole(), threading.Event(), threading.Event()
        self.state = state(1, 4_000_000)
        store.save("s", Level.SESSION, 1, self.state, "", 1)

        def slow(at: int, piece: memoryview) -> None:
            begun.set()
            assert self.may_end.wait(20)
            self.whole.put(at, piece)

        self.thread = threading.Thread(target=store.restore, args=("ckpt-00000001", slow))
        self.thread.start()
        assert begun.wait(20)

    def end(self) -> None:
        assert self.thread.is_alive()
        self.may_end.set()
        self.thread.join(20)
        assert self.whole.taken() == self.state


def test_a_helper_that_helps_somebody_else_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slow = SlowRestore(store)
    store.save("s", Level.SESSION, 2, state(2, 4_000_000), "", 2)
    assert store.load("ckpt-00000002")[1] == state(2, 4_000_000)
    slow.end()


def test_a_helper_that_dies_leaves_its_group_to_the_one_it_helped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, me, both = Store(tmp_path), threading.current_thread(), threading.Barrier(2, timeout=20)
    store.save("s", Level.SESSION, 1, state(1, 4_000_000), "", 1)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    reads: list[int] = []

    def dying(_: Pack, group: packs.Group) -> None:
        reads.append(group.first)
        if len(reads) <= 2:
            both.wait()
        if threading.current_thread() is not me:
            raise MemoryError

    noted(monkeypatch, dying)
    assert store.load("ckpt-00000001")[1] == state(1, 4_000_000)
    assert len(reads) == len(set(reads)) + 1


def test_to_close_the_store_waits_for_no_restore_and_ends_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slow = SlowRestore(store)
    store.close()
    slow.end()
    assert store.load("ckpt-00000001")[1] == slow.state, "who comes later is served, too"


@pytest.mark.parametrize("first_away", [False, True])
def test_damage_is_told_rather_than_that_something_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_away: bool
) -> None:
    store, both = Store(tmp_path), threading.Barrier(2, timeout=20)
    first, second = state(1, 100_000), state(2, 100_000)
    store.save("s", Level.SESSION, 1, first, "", 1)
    store.save("s", Level.SESSION, 2, second + first if first_away else first + second, "", 2)
    flip(tmp_path / "ckpt-00000001.pack", 60_000)

    def away(pack: Pack, _: packs.Group) -> None:
        both.wait()
        if pack.path.stem == "ckpt-00000002":
            raise ColdAwayError(place="there", reason="it is away")

    noted(monkeypatch, away)
    with pytest.raises(CheckpointCorruptError):
        store.load("ckpt-00000002")
    assert store._catalog.lost[1], "and the next save builds on none of it"
