"""Packing tighter: smaller files, the same checkpoints, whoever reads, saves or dies meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from selfware_checkpointd import precedence, upkeep
from selfware_checkpointd.files import write_aside
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.scrub import DAY_NANOS, ScrubPolicy
from selfware_checkpointd.store import Store
from tests.bench.workload import Session
from tests.unit.selfware_checkpointd.helpers import flip, keep_newest, state


def save(store: Store, sequence: int, data: bytes) -> str:
    return store.save("s", Level.SESSION, sequence, data, "", sequence).checkpoint_id


def stored(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def history(store: Store, steps: int = 4) -> dict[str, bytes]:
    session, found = Session(5_000_000), {}
    for sequence in range(1, steps + 1):
        data = session.encode()
        found[save(store, sequence, data)] = data
        session.step()
    return found


def test_files_become_smaller_and_every_checkpoint_stays_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = history(store)
    before = stored(tmp_path)
    assert store.tighten().startswith("packed ")
    assert stored(tmp_path) < 0.9 * before
    assert store.tighten() == "", "once is enough"
    for now in (store, Store(tmp_path)):
        assert {one: now.load(one)[1] for one in found} == found
        assert sum(info.stored_bytes for info in now.checkpoints()) == stored(tmp_path)
    again = Store(tmp_path)
    last = list(found.values())[-1]
    assert again.save("s", Level.TASK, 9, last + b"x", "", 9).stored_bytes < 60_000


def test_chunks_that_nobody_uses_go_and_come_back_when_they_are_saved_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = state(1, 1_000_000)
    save(store, 1, data)
    kept = save(store, 2, data[:100_000])
    keep_newest(store, {Level.SESSION: 1})
    assert stored(tmp_path) > 1_000_000
    assert store.tighten().startswith("packed 1 checkpoints tighter, freed 9")
    assert stored(tmp_path) < 200_000
    assert store.load(kept)[1] == data[:100_000]
    whole = save(store, 3, data)
    for now in (store, Store(tmp_path)):
        assert now.load(whole)[1] == data
        assert all(verdict.intact for verdict in now.verify_all())


def test_a_pack_of_version_1_is_packed_tighter_as_one_of_version_1(tmp_path: Path) -> None:
    golden = (Path(__file__).parent / "golden/version-1.pack").read_bytes()
    (tmp_path / "ckpt-00000001.pack").write_bytes(golden)
    store = Store(tmp_path)
    save(store, 2, state(1, 3000)[:1000] + b"x")
    keep_newest(store, {Level.SESSION: 1, Level.TASK: 1})
    store.tighten()
    assert Store(tmp_path).load("ckpt-00000001")[1] == state(1, 3000)


def test_a_daemon_that_stops_begins_no_further_pack(tmp_path: Path) -> None:
    store = Store(tmp_path)
    history(store)
    store.hurry()
    assert store.tighten() == ""


def test_what_is_being_read_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = history(store)
    first = next(iter(found))
    with store.reading(first) as (_, pieces):
        begun = bytes(next(pieces))
        before = (tmp_path / f"{first}.pack").read_bytes()
        store.tighten()
        said = keep_newest(store, {Level.SESSION: 1})
        assert said.startswith("deleted 2 checkpoints") and said.endswith("1 wait, for they are being read")
        assert (tmp_path / f"{first}.pack").read_bytes() == before
        assert begun + b"".join(pieces) == found[first]
    assert store.tighten() != "", "and done the next time"
    assert keep_newest(store, {Level.SESSION: 1}).startswith("deleted 1 checkpoints")


def test_a_save_in_the_meantime_may_use_chunks_that_were_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    data = state(1, 1_000_000)
    save(store, 1, data)
    save(store, 2, data[:100_000])
    keep_newest(store, {Level.SESSION: 1})
    late: list[str] = []

    def sync(file: int) -> None:
        if not late:
            late.append("")  # it saves with this sync, too
            late[0] = save(store, 3, data)

    monkeypatch.setattr(store._upkeep, "_sync", sync)
    assert store.tighten() == ""
    assert store.load(late[0])[1] == data
    assert not list(tmp_path.glob("*.tmp"))


def test_a_damaged_pack_is_left_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = history(store)
    path = tmp_path / "ckpt-00000001.pack"
    flip(path, 300_000)
    damaged = path.read_bytes()
    store.tighten()
    assert path.read_bytes() == damaged
    assert not store.verify(next(iter(found))).intact


def test_a_damaged_pack_is_not_written_in_vain_again_and_again_and_the_next_save_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    data = state(1, 1_000_000)
    save(store, 1, data)
    flip(tmp_path / "ckpt-00000001.pack", 500_000)
    written: list[Path] = []

    def noted(path: Path, *rest: object) -> tuple[Path, int]:
        written.append(path)
        return write_aside(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(upkeep, "write_aside", noted)
    assert store.tighten() == "" and len(written) == 1
    assert store.tighten() == "" and len(written) == 1
    assert not list(tmp_path.glob("*.tmp"))
    save(store, 2, data)
    assert store.load("ckpt-00000001")[1] == data
    for day in (100, 107):  # it begins, and a week later it is through
        store.scrub.turn(ScrubPolicy(days=7.0), day * DAY_NANOS, 1 << 50)
    assert store.tighten().startswith("packed 1 checkpoints tighter")
    assert Store(tmp_path).load("ckpt-00000001")[1] == data


def test_what_a_crash_left_of_it_goes_at_the_next_start(tmp_path: Path) -> None:
    found = history(Store(tmp_path))
    (tmp_path / "ckpt-00000001.pack.tmp").write_bytes(b"half")
    store = Store(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert {one: store.load(one)[1] for one in found} == found


def test_a_pack_with_gaps_in_it_is_not_packed_again_and_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = state(1, 2_000_000)
    save(store, 1, data)
    holes = b"".join(data[at : at + 150_000] for at in range(0, len(data), 500_000))
    save(store, 2, holes)
    keep_newest(store, {Level.SESSION: 1})
    assert store.tighten().startswith("packed 1 checkpoints tighter")
    assert stored(tmp_path) < 700_000
    assert store.tighten() == "", "once is enough"
    assert Store(tmp_path).tighten() == ""
    assert store.load("ckpt-00000002")[1] == holes


def packing(store: Store) -> threading.Thread:
    """Upkeep of the minute has begun to pack."""
    thread = threading.Thread(target=store.tighten, kwargs={"may_wait": True}, daemon=True)
    thread.start()
    return thread


def test_packing_steps_aside_while_somebody_waits_for_a_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = history(store)
    with store._upkeep.precedence.restoring():
        packs = packing(store)
        packs.join(0.3)
        assert packs.is_alive()
    packs.join(20)
    assert not packs.is_alive(), "it went on when the state was there"
    assert store.tighten() == ""
    assert {one: store.load(one)[1] for one in found} == found


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["a restore", "a verification"])
def test_packing_steps_aside_for_a_restore_and_not_for_a_verification(tmp_path: Path, is_waited_for: bool) -> None:
    store = Store(tmp_path)
    name = next(iter(history(store)))
    begun, may_end = threading.Event(), threading.Event()

    def slow(_: int, __: memoryview) -> None:
        begun.set()
        assert may_end.wait(20)

    reads = threading.Thread(target=store.restore, args=(name, slow, not is_waited_for), daemon=True)
    reads.start()
    assert begun.wait(20)
    packs = packing(store)
    packs.join(0.3 if is_waited_for else 20)
    assert packs.is_alive() == is_waited_for
    may_end.set()
    reads.join(20)
    packs.join(20)
    assert not packs.is_alive()


def test_packing_does_not_step_aside_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "MOST_SECONDS", 0.1)
    store = Store(tmp_path)
    history(store)
    with store._upkeep.precedence.restoring():
        assert store.tighten(may_wait=True).startswith("packed 2 checkpoints tighter")


@pytest.mark.parametrize("press", [Store.tighten, Store.hurry], ids=["a save needs room", "the daemon stops"])
def test_packing_steps_aside_no_longer_when_something_presses(tmp_path: Path, press: Callable[[Store], object]) -> None:
    store = Store(tmp_path)
    history(store)
    with store._upkeep.precedence.restoring():
        packs = packing(store)
        packs.join(0.2)
        begin = time.monotonic()
        press(store)
        packs.join(20)
        assert time.monotonic() - begin < 0.5 * precedence.MOST_SECONDS
        assert not packs.is_alive()
