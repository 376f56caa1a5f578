"""A stub of which nothing can be read any more goes some day, and not before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfware_checkpointd import coldstub
from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.retention import retain
from selfware_checkpointd.thinning import Policy
from tests.unit.selfware_checkpointd.cold_rig import DAY, NOW, Rig
from tests.unit.selfware_checkpointd.helpers import flip, state

MONTH = Policy(retention_days=30, max_size_bytes=1 << 40)


def ruin(stub: Path) -> None:
    """Damage both records."""
    flip(stub, 20)
    flip(stub, -20)


def test_a_stub_that_is_damaged_for_good_keeps_older_packs_only_as_long_as_any_ruin(rig: Rig) -> None:
    rig.save(rig.saved["ckpt-00000003"] + b"more", 3)
    rig.turn(5)
    stub = rig.warm_path / "ckpt-00000002.cold"
    ruin(stub)
    rig.open()
    rig.store.delete([1])
    assert (rig.warm_path / "ckpt-00000001.cold-chunks").exists(), "it may need that"
    os.utime(stub, ns=(NOW, NOW))
    said = retain(rig.store, MONTH, NOW + 20 * DAY)
    assert said.startswith("deleted 0") and stub.exists()
    retain(rig.store, MONTH, NOW + 31 * DAY)
    assert not {name for name in rig.here() if name.startswith(("ckpt-00000001.", "ckpt-00000002."))}
    rig.turn(40)
    rig.open()
    assert set(rig.store._catalog.packs) == {3, 4} and not rig.store.unreadable()
    assert rig.store.load("ckpt-00000004")[1] == rig.saved["ckpt-00000004"]


def test_a_stub_of_a_newer_selfware_is_no_ruin(rig: Rig) -> None:
    rig.turn(3)
    stub = rig.warm_path / "ckpt-00000001.cold"
    data = bytearray(stub.read_bytes())
    ruin(stub)
    assert coldstub.is_ruined(stub)
    data[8] += 1
    stub.write_bytes(data[:-4] + bytes(4))
    assert not coldstub.is_ruined(stub)
    rig.open()
    assert rig.store.ruins() == []


def test_what_living_checkpoints_need_of_it_keeps_it(rig: Rig) -> None:
    rig.save(rig.saved["ckpt-00000001"] + b"more", 3, "beta")
    rig.save(rig.saved["ckpt-00000001"] + b"most", 80, "beta")
    rig.save(state(9), 90, "beta")
    rig.turn(200)
    stub = rig.warm_path / "ckpt-00000001.cold"
    whole = stub.read_bytes()
    ruin(stub)
    os.utime(stub, ns=(NOW, NOW))
    rig.open()
    retain(rig.store, Policy(retention_days=150, max_size_bytes=1 << 40), NOW + 201 * DAY)
    chunks = rig.warm_path / "ckpt-00000001.cold-chunks"
    assert chunks.exists() and not stub.exists()
    with pytest.raises(CheckpointCorruptError):
        rig.store.load("ckpt-00000005")
    chunks.write_bytes(whole)  # from a backup
    rig.open()
    assert rig.store.load("ckpt-00000005")[1] == rig.saved["ckpt-00000005"]
