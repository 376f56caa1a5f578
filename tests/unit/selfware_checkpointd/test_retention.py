"""Carrying out what thinning decides: an intact checkpoint stays, and the disk stays below its limit."""

from __future__ import annotations

from pathlib import Path

from selfware_checkpointd.manifest import Level
from selfware_checkpointd.retention import retain
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Policy
from tests.unit.selfware_checkpointd.helpers import flip, state

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
WEEK = Policy(retention_days=7, max_size_bytes=1 << 40)


def save(store: Store, sequence: int, data: bytes, seconds: int, session: str = "s") -> str:
    return store.save(session, Level.SESSION, sequence, data, "", seconds * SECOND).checkpoint_id


def stored(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_of_a_day_few_stay_and_of_the_last_hour_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for minute in range(0, 180, 2):
        save(store, minute + 1, b"state %d" % minute, 60 * minute)
    retain(store, WEEK, 3 * HOUR)
    minutes = [info.created_unix_nanos // SECOND // 60 for info in store.checkpoints()]
    assert minutes[:30] == list(range(178, 118, -2))
    assert minutes[30:] == list(range(110, -10, -10))
    assert "deleted 0 checkpoints" in retain(store, WEEK, 3 * HOUR), "once is enough"


def test_files_above_the_limit_make_old_ones_go_until_they_are_below_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = state(1, 300_000)
    last = ""
    for sequence in range(1, 11):
        data = data[100_000:] + state(sequence + 1, 100_000)  # each shares two thirds with the one before
        last = save(store, sequence, data, sequence)
    assert stored(tmp_path) > 1_100_000
    retain(store, Policy(7, 600_000), 20 * SECOND)
    assert stored(tmp_path) <= 600_000
    assert store.load(last)[1] == data
    assert all(verdict.intact for verdict in Store(tmp_path).verify_all())


def test_a_limit_below_the_last_one_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, 1, state(1), 1)
    save(store, 2, state(2), 2)
    assert "above the limit of" in retain(store, Policy(7, 100_000), 3 * SECOND)
    assert [info.sequence for info in store.checkpoints()] == [2]


def test_a_session_whose_checkpoints_are_all_damaged_loses_none_of_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for sequence in (1, 2, 3):
        damaged = save(store, sequence, state(sequence), sequence)
        save(store, sequence, state(sequence + 10), sequence, "t")
        flip(tmp_path / f"{damaged}.pack", 50_000)
    retain(store, Policy(retention_days=1, max_size_bytes=1 << 40), 99 * HOUR)
    assert [info.sequence for info in store.checkpoints("s")] == [3, 2, 1]
    assert [info.sequence for info in store.checkpoints("t")] == [3]


def test_one_that_cannot_be_read_now_keeps_what_it_may_need(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, 1, state(1), 1)
    last = save(store, 2, state(1) + b"x", 2)
    pack = tmp_path / f"{last}.pack"
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-1] + b"?")
    again = Store(tmp_path)
    retain(again, Policy(retention_days=-1, max_size_bytes=0), 99 * HOUR)
    pack.write_bytes(whole)
    assert Store(tmp_path).load(last)[1] == state(1) + b"x"
