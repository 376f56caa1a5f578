"""Where bounded space, tiers, encryption and the hot tier meet: each alone is tested elsewhere."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from selfware_checkpointd import bulk, coldstub, files, healing, trimming
from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.errors import ColdAwayError, KeyMissingError, StorageError
from selfware_checkpointd.files import Sync
from selfware_checkpointd.hot import Hot
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.packs import Group
from selfware_checkpointd.retention import Retention
from selfware_checkpointd.spool import Spool
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.vault import Vault
from selfware_common.state import wire
from tests.unit.selfware_checkpointd.helpers import events, flip, keep_newest, state
from tests.unit.selfware_checkpointd.test_cold import BOTH, DAY, NOW, Rig
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

    def failing(pack: Pack, group: Group, at_rest: bool = False) -> bytes:
        if pack.session_id == "bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return frame(pack, group, at_rest)

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
    pread = os.pread

    def failing(file: int, size: int, offset: int) -> bytes:
        if os.fstat(file).st_ino in bad and offset > 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    rig.store._hot.forget(1)
    assert b"".join(_of(rig.store, "ckpt-00000001")) == state(0)
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
    pread = os.pread

    def failing(file: int, size: int, offset: int) -> bytes:
        if os.fstat(file).st_ino == bad and offset > 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    flip(tmp_path / "ckpt-00000003.pack", 100_000)
    monkeypatch.setattr(os, "pread", failing)
    assert "found damage in 2 files" in whole_pass(store)
    assert any("ckpt-00000001 cannot be read" in note for note in store.scrub.taken_notes())


def _of(store: Store, name: str) -> list[bytes]:
    with store.reading(name, at_rest=True) as (_, pieces):
        return [bytes(piece) for piece in pieces]


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


def test_upkeep_that_has_to_end_deletes_nothing_instead_of_packing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 5):
        store.save("a", Level.SESSION, sequence, state(sequence), "", NOW - sequence)
    policy = Policy(7, 1_000_000)
    monkeypatch.setattr(store, "tighten", lambda *_: store.hurry() or "")  # type: ignore[func-returns-value]
    Retention(store).run(policy, NOW, lambda: store.disk_bytes() - policy.max_size_bytes)
    assert len(store.checkpoints()) == 4


def test_one_that_is_deleted_while_all_are_verified_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 4):
        store.save("a", Level.SESSION, sequence, state(sequence), "", NOW)
    before = store.checkpoints()
    store.delete([2])
    monkeypatch.setattr(store, "checkpoints", lambda *_: before)
    assert [one.checkpoint_id for one in store.verify_all()] == ["ckpt-00000003", "ckpt-00000001"]


def test_a_pack_that_came_back_whole_counts_as_large_as_it_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9, BOTH)
    pack = rig.warm_path / "ckpt-00000001.pack"
    pack.write_bytes(pack.read_bytes()[:1000])
    rig.open()
    assert "healed 1" in whole_pass(rig.store)
    there = sum(path.stat().st_size for path in rig.warm_path.glob("ckpt-*"))
    assert rig.store.disk_bytes() == there
    rig.turn(9)
    assert rig.store.disk_bytes() == sum(path.stat().st_size for path in rig.warm_path.glob("ckpt-*"))


def test_a_checkpoint_that_is_deleted_while_its_pack_heals_stays_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    rig.save(state(0), 0)
    rig.store.save("alpha", Level.SESSION, 2, state(0) + b"more", "", NOW + DAY)  # uses most chunks of the first
    rig.save(state(2), 2)
    rig.turn(9)
    flip(next(rig.cold_path.glob("ckpt-00000001-*/00000")), 100_000)
    whole_pass(rig.store)
    rig.store.save("alpha", Level.SESSION, 4, state(0), "", NOW + 3 * DAY)
    write_aside = files.write_aside

    def slowly(path: Path, pieces: list[bytes], sync: Sync) -> tuple[Path, int]:
        monkeypatch.undo()
        rig.store.delete([1])  # a save makes room
        return write_aside(path, pieces, sync)

    monkeypatch.setattr(healing, "write_aside", slowly)
    whole_pass(rig.store, LATER + 30 * DAY)
    for _ in range(2):
        assert [info.number for info in rig.store.checkpoints()] == [4, 3, 2]
        assert not rig.store.unreadable()
        assert not (rig.warm_path / "ckpt-00000001.pack").exists()
        rig.open()


def test_a_bad_sector_keeps_no_other_pack_from_the_cold_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.store.tighten()
    bad = (rig.warm_path / "ckpt-00000001.pack").stat().st_ino
    pread = os.pread

    def failing(file: int, size: int, offset: int) -> bytes:
        if os.fstat(file).st_ino == bad and size > 100_000:  # its chunks
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert "copied 2 packs" in rig.store.tiers.turn(BOTH, NOW + 9 * DAY, 1 << 50)


def test_a_bad_sector_keeps_no_other_pack_from_being_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 4):
        store.save("a", Level.SESSION, sequence, state(sequence), "", NOW)
    bad = (tmp_path / "ckpt-00000001.pack").stat().st_ino
    pread = os.pread

    def failing(file: int, size: int, offset: int) -> bytes:
        if os.fstat(file).st_ino == bad and size > 100_000:  # its chunks
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert "packed 2 checkpoints" in store.tighten()


def test_a_client_is_told_when_there_is_no_file_for_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Spool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bulk, "Spool", full)
    ours, theirs = socket.socketpair()
    size = bulk.IN_MEMORY_BYTES + 1
    connection = bulk._Connection(ours, Memory(tmp_path), tmp_path, 1 << 30, lambda: None, bulk.STATES)
    sending = threading.Thread(target=theirs.sendall, args=(bytes(size),), daemon=True)
    sending.start()
    connection.answer({"call": "save", "body": size}, -1)
    sending.join(5)
    assert not sending.is_alive()
    answer = wire.receive(theirs)
    assert answer is not None
    assert answer[0]["status"] == "RESOURCE_EXHAUSTED"
    ours.close()
    theirs.close()


def test_a_session_whose_cover_is_away_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(tmp_path)
    for session in ("a", "b"):
        memory.sessions.open(session, "w", 1)
    journal = memory.journal

    def away(session_id: str) -> Journal:
        if session_id == "a":
            raise ColdAwayError(place="s3://x", reason="it is away")
        return journal(session_id)

    monkeypatch.setattr(memory, "journal", away)
    assert [one.session_id for one in asyncio.run(memory.summaries())] == ["b"]
    assert "it is away" in memory.notes[-1]


def test_a_pack_that_could_not_be_removed_is_removed_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9, BOTH)
    unlink = Path.unlink

    def failing(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".chunks":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    with pytest.raises(StorageError):
        rig.store.delete([1])
    monkeypatch.undo()
    rig.store.delete([])
    assert not list(rig.warm_path.glob("ckpt-00000001.*"))
    assert rig.store.disk_bytes() == sum(path.stat().st_size for path in rig.warm_path.glob("ckpt-*[!e]"))


def test_a_pack_that_is_deleted_while_its_copy_is_looked_at_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9)
    flip(next(rig.cold_path.glob("ckpt-00000001-*/00000")), 100_000)
    monkeypatch.setattr(rig.store._reader, "forget", lambda _: rig.store.delete([1]))  # a save makes room
    assert whole_pass(rig.store) == ""
    assert [info.number for info in rig.store.checkpoints()] == [3, 2]
