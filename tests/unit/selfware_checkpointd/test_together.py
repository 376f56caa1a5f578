"""Where bounded space, tiers, encryption and the hot tier meet: each alone is tested elsewhere."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfware_checkpointd import coldstub, trimming
from selfware_checkpointd.assembling import Whole
from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.errors import KeyMissingError
from selfware_checkpointd.hot import Hot
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.vault import Vault
from tests.unit.selfware_checkpointd.cold_rig import BOTH, DAY, NOW, Rig
from tests.unit.selfware_checkpointd.helpers import events, fail_reads, flip, keep_newest, state
from tests.unit.selfware_checkpointd.test_scrub import LATER, whole_pass

SECRET = b"the launch code is 4711"
KEY = bytes(range(32))


class SealedRig(Rig):
    """The same, encrypted."""

    def open(self) -> None:
        self.store = Store(self.warm_path, cold=self.cold, vault=Vault([KEY]))


def test_a_healed_pack_of_the_cold_store_stays_encrypted(tmp_path: Path) -> None:
    rig = SealedRig(tmp_path)
    base = state(1) + SECRET * 1000
    rig.store.save("alpha", Level.SESSION, 1, base, "a secret label", NOW)
    rig.store.save("alpha", Level.SESSION, 2, state(2), "", NOW + DAY)
    rig.turn(9)
    assert "ckpt-00000001.pack" not in rig.here()
    flip(next(rig.cold_path.glob("ckpt-00000001-*/00000")), 100_000)
    whole_pass(rig.store)  # noticed, so the next save stores it again
    rig.store.save("alpha", Level.SESSION, 3, base, "", NOW + 2 * DAY)
    assert "healed 1" in whole_pass(rig.store, LATER + 30 * DAY)
    healed = (rig.warm_path / "ckpt-00000001.pack").read_bytes()
    assert SECRET not in healed
    rig.open()
    assert rig.store._catalog.packs[1].key_id == Vault([KEY]).key_id
    assert rig.store.load("ckpt-00000001")[1] == base


def test_a_healed_stub_counts_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9)
    before = rig.store.disk_bytes()
    flip(rig.warm_path / "ckpt-00000001.cold", -10)
    assert "healed 1" in whole_pass(rig.store)
    assert rig.store.disk_bytes() == before
    rig.store.delete([1])
    assert 1 not in rig.store._catalog.packs, "its chunks are used by nobody any more"


def test_what_is_read_is_not_overwritten_though_the_same_was_saved_again_meanwhile() -> None:
    hot, kind = Hot(100), ("alpha", Level.SESSION)

    def put(number: int, byte: bytes) -> None:
        room = hot.room(40, kind)
        assert room is not None
        room[:40] = byte * 40
        hot.put(kind, number, room, 40)

    put(1, b"a")
    first = hot.pin(1)
    assert first is not None
    put(1, b"a")  # the same event and state once more is the same checkpoint
    hot.unpin(1, first)
    second = hot.pin(1)
    assert second is not None
    put(2, b"b")
    put(3, b"c")
    assert bytes(second) == b"a" * 40


def test_a_journal_without_its_key_keeps_nothing_else_from_being_looked_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        sealed = Memory(tmp_path, lambda: NOW, vault=Vault([KEY]))
        sealed.sessions.open("a", "w", 1)
        journal = sealed.journal("a")
        journal._segment_bytes = 200
        for one in events(1, 6):
            journal.append([one])
        await sealed.close()
        memory = Memory(tmp_path, lambda: NOW)
        for sequence in range(1, 5):
            memory.store.save("b", Level.SESSION, sequence, state(sequence), "", NOW - (100 - sequence) * DAY)
        await memory.maintain(Policy(7, 1 << 40))
        assert len(memory.store.checkpoints()) == 1
        assert any("is not among the credentials" in note for note in memory.notes)
        await memory.close()

    asyncio.run(scenario())


def test_a_segment_that_cannot_be_sealed_for_want_of_its_key_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: NOW)
        memory.sessions.open("a", "w", 1)
        journal = memory.journal("a")

        def no_key() -> int:
            raise KeyMissingError(what="The journal of session a", key_id="00")

        monkeypatch.setattr(journal, "seal", no_key)
        turned: list[str] = []

        def noted(name: str) -> Callable[..., str]:
            def turn(*_: object) -> str:
                turned.append(name)
                return ""

            return turn

        monkeypatch.setattr(memory.store.scrub, "turn", noted("scrub"))
        monkeypatch.setattr(memory.store.tiers, "turn", noted("tiers"))
        said = await memory.maintain(Policy(7, 1 << 40))
        assert turned == ["tiers", "scrub"]
        assert "is not among the credentials" in said
        await memory.close()

    asyncio.run(scenario())


def test_where_no_floor_can_be_written_checkpoints_make_room_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: NOW)
        memory.sessions.open("a", "w", 1)
        journal = memory.journal("a")
        journal._segment_bytes = 200
        for one in events(1, 6):
            journal.append([one._replace(time_unix_nanos=NOW - 90 * DAY)])
        for sequence in range(3, 7):
            memory.store.save("a", Level.SESSION, sequence, state(sequence), "", NOW - (100 - sequence) * DAY)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(trimming, "write_floor", full)
        await memory.maintain(Policy(7, 1 << 40))
        assert len(memory.store.checkpoints()) == 1
        monkeypatch.undo()
        await memory.close()

    asyncio.run(scenario())


def test_appends_do_not_wait_for_upkeep_that_makes_room_already(tmp_path: Path) -> None:
    memory = Memory(tmp_path, lambda: NOW, policy=Policy(7, 1 << 20))
    with memory.bounds.room.making:  # upkeep reads checkpoints from a slow cold store, say
        thread = threading.Thread(target=memory.bounds.loosen, daemon=True)
        memory.bounds.room.sizes.append(lambda: 1 << 21)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()


def test_a_checkpoint_that_the_disk_refuses_to_read_keeps_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 5):
        store.save("bad", Level.SESSION, sequence, state(sequence), "", NOW)
        store.save("good", Level.SESSION, sequence, state(10 + sequence), "", NOW)
    frame = store._reader.frame

    def failing(pack: Pack, *rest: Any) -> bytes | memoryview:
        if pack.session_id == "bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return frame(pack, *rest)

    monkeypatch.setattr(store._reader, "frame", failing)
    keep_newest(store, {Level.SESSION: 1})
    assert len(store.checkpoints("good")) == 1
    assert len(store.checkpoints("bad")) == 4


def test_a_bad_sector_heals_from_the_cold_store_and_is_read_from_there_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9, BOTH)
    bad = {(rig.warm_path / "ckpt-00000001.pack").stat().st_ino}
    fail_reads(monkeypatch, lambda inode, _, offset: inode in bad and offset > 0)
    rig.store._hot.forget(1)
    assert _at_rest(rig.store, "ckpt-00000001") == state(0)
    assert "healed 1" in whole_pass(rig.store)
    monkeypatch.undo()
    assert (rig.warm_path / "ckpt-00000001.pack").stat().st_ino not in bad
    rig.open()
    rig.check()


def test_a_bad_sector_that_nothing_heals_does_not_end_the_scrub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 4):
        store.save("a", Level.SESSION, sequence, state(sequence), "", NOW)
    bad = (tmp_path / "ckpt-00000001.pack").stat().st_ino
    flip(tmp_path / "ckpt-00000003.pack", 100_000)
    fail_reads(monkeypatch, lambda inode, _, offset: inode == bad and offset > 0)
    assert "found damage in 2 files" in whole_pass(store)
    assert any("ckpt-00000001 cannot be read" in note for note in store.scrub.taken_notes())


def _at_rest(store: Store, name: str) -> bytes:
    whole = Whole()
    store.restore(name, whole.put, at_rest=True)
    return whole.taken()


def test_a_stub_whose_index_is_damaged_keeps_its_copy(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9, BOTH)
    flip(rig.warm_path / "ckpt-00000001.pack", 100_000)
    stub = rig.warm_path / "ckpt-00000001.cold"
    flip(stub, -4 - coldstub._LENGTH.unpack(stub.read_bytes()[-4:])[0] - 10)  # its pack's trailer
    rig.open()
    rig.turn(9, BOTH)
    rig.check()
    whole_pass(rig.store)
    rig.open()
    rig.check()


@pytest.mark.parametrize("place", ["index", "too short"])
def test_damage_of_the_pack_and_its_stub_and_its_copy_is_told_and_ends_nothing(tmp_path: Path, place: str) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9, BOTH)
    rig.open()
    pack = rig.warm_path / "ckpt-00000001.pack"
    if place == "index":
        flip(pack, -80)
    else:
        pack.write_bytes(b"")
    flip(rig.warm_path / "ckpt-00000001.cold", -10)
    flip(next(rig.cold_path.glob("ckpt-00000001-*/00000")), 100_000)
    assert "found damage" in whole_pass(rig.store)
    assert rig.store.load("ckpt-00000003")[1] == state(2)


def test_what_waits_for_the_cold_store_to_be_removed_there_counts(tmp_path: Path) -> None:
    memory = Memory(tmp_path, lambda: NOW, reserve_bytes=0)
    before = memory.bounds.room.used_bytes()
    (tmp_path / "checkpoints" / "ckpt-00000001-0011223344556677.gone").write_bytes(bytes(100_000))
    (tmp_path / "checkpoints" / "ckpt-00000002.moving").write_bytes(bytes(100_000))
    asyncio.run(memory.maintain(Policy(7, 1 << 40)))
    assert memory.bounds.room.used_bytes() - before >= 200_000


def test_two_copies_that_are_damaged_in_different_places_heal_each_other(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    base = state(1, 20_000_000)  # three groups
    rig.save(base, 0)
    rig.save(state(2), 1)
    rig.turn(9, BOTH)
    flip(rig.warm_path / "ckpt-00000001.pack", 100_000)
    flip(next(rig.cold_path.glob("ckpt-00000001-*/00001")), 4_000_000)
    rig.open()
    rig.turn(9)  # wants to push it out, and finds that the copy is not right
    rig.check()
    whole_pass(rig.store)
    rig.turn(9)
    rig.open()
    rig.check()
    assert all(one.intact for one in rig.store.verify_all())
