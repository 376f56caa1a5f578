"""Where bounded space, tiers, encryption and the hot tier meet: each alone is tested elsewhere."""

from __future__ import annotations

from pathlib import Path

from selfware_checkpointd.hot import Hot
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store
from selfware_checkpointd.vault import Vault
from selfware_common.errors import SelfwareError
from tests.unit.selfware_checkpointd.helpers import flip, state
from tests.unit.selfware_checkpointd.test_cold import DAY, NOW, Rig
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
    put(1, b"a")  # the same event and state once more is the same checkpoint
    hot.unpin(1, first)
    second = hot.pin(1)
    assert second is not None
    put(2, b"b")
    put(3, b"c")
    assert bytes(second) == b"a" * 40
