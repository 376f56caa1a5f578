"""What goes on beside upkeep, and what a disk refuses, while tiers, bounds and healing work on the same packs."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from selfware_checkpointd import bulk, files, healing
from selfware_checkpointd.errors import CheckpointNotFoundError, ColdAwayError, StorageError
from selfware_checkpointd.files import Sync
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.retention import Retention
from selfware_checkpointd.spool import Spool
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Policy
from selfware_common.state import wire
from tests.unit.selfware_checkpointd.cold_rig import BOTH, DAY, NOW, Rig
from tests.unit.selfware_checkpointd.helpers import fail_reads, flip, state
from tests.unit.selfware_checkpointd.test_scrub import LATER, whole_pass


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
    fail_reads(monkeypatch, lambda inode, size, _: inode == bad and size > 100_000)  # its chunks
    assert "copied 2 packs" in rig.store.tiers.turn(BOTH, NOW + 9 * DAY, 1 << 50)


def test_a_bad_sector_keeps_no_other_pack_from_being_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 4):
        store.save("a", Level.SESSION, sequence, state(sequence), "", NOW)
    bad = (tmp_path / "ckpt-00000001.pack").stat().st_ino
    fail_reads(monkeypatch, lambda inode, size, _: inode == bad and size > 100_000)  # its chunks
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


def test_one_that_is_deleted_as_somebody_begins_to_read_it_is_gone_and_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 4):
        store.save("a", Level.SESSION, sequence, state(1) + state(sequence, 50_000), "", NOW)
        store.load(f"ckpt-{sequence:08}")

    def late(*_: object) -> bool:
        store.delete([2] if len(store.checkpoints()) == 3 else [1, 3])
        return False

    monkeypatch.setattr("selfware_checkpointd.store.is_right", late)
    for number in (2, 1):
        with pytest.raises(CheckpointNotFoundError):
            store.load(f"ckpt-{number:08}")


def test_a_stub_that_goes_while_it_is_verified_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    for day in range(3):
        rig.save(state(day), day)
    rig.turn(9)
    read_bytes = Path.read_bytes

    def late(path: Path) -> bytes:
        if path.name == "ckpt-00000001.cold":
            rig.store.delete([1])
            monkeypatch.setattr(Path, "read_bytes", read_bytes)
            rig.store.tiers.turn(BOTH, NOW + 9 * DAY, 1 << 50)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    whole_pass(rig.store)
    assert rig.store.scrub.taken_notes() == []
    assert set(rig.store._catalog.packs) == {2, 3}
