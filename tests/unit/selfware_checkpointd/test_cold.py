"""The cold tier: packs move to another store and back to readers, and no instant has no copy."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest
from blake3 import blake3

from selfware_checkpointd import coldstub, tiers
from selfware_checkpointd.coldstore import DirectoryStore
from selfware_checkpointd.errors import CheckpointCorruptError, ColdAwayError
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.tiering import NANOS, ColdPolicy
from selfware_checkpointd.tiers import MOVE_BYTES
from selfware_checkpointd.vault import NO_VAULT
from selfware_common.errors import SelfwareError
from tests.unit.selfware_checkpointd.cold_rig import ALL, AWAY, BOTH, DAY, NOW, Rig
from tests.unit.selfware_checkpointd.helpers import flip, keep_newest, state


def test_old_packs_move_and_readers_notice_nothing(rig: Rig) -> None:
    said = rig.turn(3)
    assert "copied 3 packs" in said and "freed" in said
    # that of day 2 is the newest of its session, and stays
    assert rig.here() == {"ckpt-00000001.cold", "ckpt-00000002.cold", "ckpt-00000003.cold", "ckpt-00000003.pack"}
    rig.check()
    rig.open()
    rig.check()
    assert all(one.intact for one in rig.store.verify_all())
    assert [rig.store.tiers.tier_of(n)[0] for n in (1, 2, 3)] == ["cold", "cold", "warm and cold"]
    assert rig.turn(3) == ""


def test_young_packs_stay(rig: Rig) -> None:
    rig.turn(2)  # two days are over for none but the first, one for the second
    assert "ckpt-00000003.cold" not in rig.here()


def test_chunks_in_the_cold_store_are_not_stored_again(rig: Rig) -> None:
    rig.turn(3)
    again = rig.save(rig.saved["ckpt-00000001"] + b"tail", 3)
    assert again.stored_bytes < 100_000
    rig.check()


def test_what_the_newest_checkpoint_of_a_session_needs_stays_here(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    base = state(1)
    rig.save(base, 0)
    rig.save(base + b"more", 5)
    rig.turn(30)
    assert {"ckpt-00000001.pack", "ckpt-00000002.pack"} <= rig.here()
    rig.cold.place = "nowhere"  # the store is away
    rig.open()
    assert rig.store.load("ckpt-00000002")[1] == base + b"more"


def test_both_copies_stay_while_there_is_room_and_the_oldest_goes_first(rig: Rig) -> None:
    rig.turn(3, BOTH)
    assert {"ckpt-00000001.pack", "ckpt-00000001.cold"} <= rig.here()
    rig.turn(3, ColdPolicy(86_400, keep_local_bytes=900_000))
    assert "ckpt-00000001.pack" not in rig.here() and "ckpt-00000002.pack" in rig.here()
    rig.check()


def test_a_damaged_pack_is_read_from_its_copy(rig: Rig) -> None:
    rig.turn(3, BOTH)
    for offset in (-5, 2000, -3000, 3):
        flip(rig.warm_path / "ckpt-00000001.pack", offset)
        rig.check()
        rig.open()
        rig.check()


def test_a_store_that_is_away_is_an_error_that_passes_and_nothing_is_forgotten(rig: Rig) -> None:
    rig.turn(3)
    (rig.cold_path / "selfware-cold-store").rename(rig.cold_path / "gone")
    rig.open()
    with pytest.raises(ColdAwayError) as raised:
        rig.store.load("ckpt-00000001")
    assert "is it mounted?" in raised.value.sentence
    verdict = rig.store.verify("ckpt-00000001")
    assert verdict.unknown and not verdict.intact
    assert rig.store.load("ckpt-00000003")[1] == rig.saved["ckpt-00000003"]
    (rig.cold_path / "gone").rename(rig.cold_path / "selfware-cold-store")
    rig.check()


def test_another_store_in_the_configuration_is_not_taken_for_the_one_that_holds_the_packs(
    rig: Rig, tmp_path: Path
) -> None:
    rig.turn(3)
    rig.cold = DirectoryStore(tmp_path / "other")
    rig.open()
    with pytest.raises(ColdAwayError) as raised:
        rig.store.load("ckpt-00000001")
    assert str(tmp_path / "other") in raised.value.sentence
    rig.turn(3)
    assert rig.store.verify("ckpt-00000001").unknown
    assert any((tmp_path / "other").glob("ckpt-00000003-*"))  # what is here too is copied there


def test_a_store_that_was_moved_is_known_again(rig: Rig, tmp_path: Path) -> None:
    rig.turn(3)
    rig.cold_path.rename(tmp_path / "moved")
    rig.cold = DirectoryStore(tmp_path / "moved")
    rig.open()
    rig.check()
    rig.turn(3)
    rig.open()
    rig.check()


def test_a_lost_object_is_damage_and_is_named(rig: Rig) -> None:
    rig.turn(3)
    next(rig.cold_path.glob("ckpt-00000001-*/00000")).unlink()
    with pytest.raises(CheckpointCorruptError) as raised:
        rig.store.load("ckpt-00000001")
    assert "ckpt-00000001.cold in the cold store" in raised.value.sentence


def test_the_copy_here_stays_when_the_other_one_is_not_right_any_more(rig: Rig) -> None:
    rig.turn(3, BOTH)
    flip(next(rig.cold_path.glob("ckpt-00000001-*/00000")), 1000)
    rig.open()  # what was read back once is not believed for ever
    rig.turn(3)
    assert any("was not right" in note for note in rig.store.tiers.taken_notes())
    rig.check()
    rig.turn(3)
    assert "ckpt-00000001.pack" not in rig.here()
    rig.check()


def test_deleting_removes_the_objects_too(rig: Rig) -> None:
    rig.turn(3)
    assert len(rig.objects()) == 3
    keep_newest(rig.store, {Level.SESSION: 1})
    assert {path.name for path in rig.warm_path.glob("*.gone")}
    rig.open()
    rig.turn(3)
    assert len(rig.objects()) == 1
    assert not list(rig.warm_path.glob("*.gone"))
    rig.saved = {"ckpt-00000003": rig.saved["ckpt-00000003"]}
    rig.check()


def test_chunks_of_a_deleted_checkpoint_stay_in_the_cold_store_while_others_use_them(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    base = state(1)
    for day, tail in enumerate((b"", b"b" * 5000)):
        rig.save(base + tail, day)
    rig.save(state(9), 2)
    rig.turn(9)
    assert rig.store.tiers.tier_of(1)[0] == "cold"
    rig.store.delete([1])
    assert "ckpt-00000001.cold-chunks" in rig.here()
    del rig.saved["ckpt-00000001"]
    rig.check()
    rig.open()
    rig.turn(9)
    rig.check()


def test_a_pack_that_is_packed_anew_is_copied_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    base = state(1, 900_000)
    rig.save(base, 0)
    rig.save(base[:200_000], 1)
    rig.turn(9, BOTH)
    before = rig.objects()
    rig.store.delete([1])
    del rig.saved["ckpt-00000001"]
    rig.turn(9, BOTH)
    after = rig.objects()
    assert not any(name.startswith("ckpt-00000001") for name in before & after)
    assert any(name.startswith("ckpt-00000001") for name in after)
    rig.open()
    rig.check()


def test_packs_are_pushed_out_before_anything_is_deleted(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for minute in range(5):
        info = rig.store.save("alpha", Level.SESSION, minute, state(minute), "", NOW + minute * 60 * NANOS)
        rig.saved[info.checkpoint_id] = state(minute)
    rig.store.tighten()
    assert "freed" in rig.store.tiers.make_room(1_000_000, NOW + 3600 * NANOS)
    assert 600_000 < rig.store.disk_bytes() < 1_000_000
    rig.check()


def test_where_there_is_no_room_for_a_stub_what_may_go_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    memory = Memory(tmp_path / "store", lambda: NOW + 3600 * NANOS, cold=DirectoryStore(tmp_path / "cold"))
    for minute in range(5):
        memory.store.save("alpha", Level.SESSION, minute, state(minute), "", NOW + minute * 60 * NANOS)
    monkeypatch.setattr(tiers, "write_durably", full)
    policy = Policy(retention_days=7, max_size_bytes=1_000_000)
    assert "deleted 3 checkpoints" in asyncio.run(memory.maintain(policy))
    assert 0 < len(memory.store.checkpoints()) < 5
    assert memory.store.disk_bytes() < 1_000_000


def test_a_copy_that_was_interrupted_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coldstub, "PART_BYTES", 50_000)
    monkeypatch.setattr(coldstub.make, "__defaults__", (50_000,))
    chance = random.Random(1)
    for _ in range(40):
        limit = chance.randrange(1, 200_000)
        rig.store.tighten()
        rig.store.tiers.turn(AWAY, NOW + 3 * DAY, limit)
        rig.open()
        rig.check()
    assert rig.here() >= {"ckpt-00000001.cold"} and "ckpt-00000001.pack" not in rig.here()
    assert all(len(list(path.iterdir())) == 9 for path in rig.cold_path.glob("ckpt-*"))
    assert len(list(rig.cold_path.glob("ckpt-*"))) == 3


class LyingStore(DirectoryStore):
    """Says that all is well, and keeps half of it."""

    def put(self, name: str, data: bytes) -> None:
        super().put(name, data[: len(data) // 2])


def test_a_store_that_loses_half_of_what_it_took_is_never_believed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, LyingStore(tmp_path / "cold"))
    for day in range(3):
        rig.save(state(day), day)
    for _ in range(3):
        assert "did not come back as it was put there" in rig.turn(3)
        rig.open()
    assert not list(rig.warm_path.glob("*.cold")) and len(list(rig.warm_path.glob("*.pack"))) == 4
    rig.check()
    rig.cold = DirectoryStore(rig.cold_path)
    rig.open()
    assert "copied 3 packs" in rig.turn(3)
    rig.check()


def test_either_half_of_a_stub_may_be_damaged(rig: Rig) -> None:
    rig.turn(3)
    path = rig.warm_path / "ckpt-00000001.cold"
    good = path.read_bytes()
    for offset in range(0, len(good), 7):
        data = bytearray(good)
        data[offset] ^= 0xFF
        found = coldstub.decode(bytes(data), NO_VAULT)
        assert found.stub == coldstub.decode(good, NO_VAULT).stub
        assert found.index in (None, coldstub.decode(good, NO_VAULT).index)


def test_the_bytes_of_a_stub_are_pinned() -> None:
    stub = coldstub.Stub(
        7, "s3://bucket/prefix", "ckpt-00000007-0123456789abcdef", 1_700_000_000 * NANOS, 100, b"h" * 32, 64,
        (b"a" * 32, b"b" * 32),
    )  # fmt: skip
    data = coldstub.encode(stub, b"header", b"tail")
    assert coldstub.decode(data, NO_VAULT) == coldstub.Read(stub, None)
    assert blake3(data).hexdigest() == "52e6ba6b2905320c0f1499707b7d249294fcfe54d38f5ba1e3b6472a41e1dab1"


def test_most_of_the_moving_waits_for_the_next_turn(rig: Rig) -> None:
    assert MOVE_BYTES < ALL
    rig.store.tighten()
    assert "copied 1 packs" in rig.store.tiers.turn(BOTH, NOW + 3 * DAY, 1)


def test_a_copy_that_was_begun_and_is_not_due_any_more_leaves_nothing_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(name: str, data: bytes) -> None:
        half = rig.cold_path / f"{name}.tmp"
        half.parent.mkdir()
        half.write_bytes(data[:100])
        raise ColdAwayError(place=rig.cold.place, reason="it died")

    with monkeypatch.context() as context:
        context.setattr(rig.cold, "put", breaks_off)
        rig.turn(3)
    assert list(rig.warm_path.glob("*.moving")) and rig.objects() != {"selfware-cold-store"}
    rig.open()
    rig.turn(3, ColdPolicy(after_seconds=365 * 86_400, keep_local_bytes=0))
    assert not list(rig.warm_path.glob("*.moving")) and not list(rig.warm_path.glob("*.gone"))
    assert not list(rig.cold_path.rglob("*.tmp"))
    rig.check()


def test_a_delete_that_failed_between_a_pack_and_its_stub_can_be_repeated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.turn(3, BOTH)
    rename = Path.rename

    def fails_for_stubs(path: Path, target: Path) -> Path:
        if path.suffix == ".cold":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "rename", fails_for_stubs)
        with pytest.raises(SelfwareError):
            rig.store.delete([1])
    assert rig.store.delete([1]).startswith("deleted 1 checkpoints")
    del rig.saved["ckpt-00000001"]
    rig.check()
    rig.open()
    rig.check()


def test_a_pack_that_went_while_the_sync_failed_is_known_to_be_gone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.turn(3, BOTH)

    def fails(_directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr("selfware_checkpointd.catalog.sync_directory", fails)
        with pytest.raises(OSError):
            rig.store._catalog.evict(1)
    rig.check()
    assert rig.store.delete([1]).startswith("deleted 1 checkpoints")
    del rig.saved["ckpt-00000001"]
    rig.check()


@pytest.mark.parametrize("dies", [False, True])
def test_a_copy_whose_stub_could_not_be_made_durable_is_the_one_that_counts_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    rig.store.tighten()

    def fails(_directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr("selfware_checkpointd.catalog.sync_directory", fails)
        rig.turn(3, BOTH)
    there = rig.objects()
    assert sum("/" in name for name in there) == 3 and rig.store.tiers.tier_of(1)[0] == "warm"
    if dies:
        rig.open()
    rig.turn(3)
    rig.check()
    assert rig.objects() == there, "nothing was copied twice"
    rig.store.delete([1, 2, 3])
    rig.turn(3)
    assert rig.objects() == {name for name in there if "/" not in name}, "and nothing is left of it"
