"""Names of checkpoints: durable, found again, and stronger than any policy."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from blake3 import blake3

from selfware_checkpointd.errors import (
    CheckpointNotFoundError,
    FormatVersionError,
    InvalidTagError,
    TagNotFoundError,
    TagsCorruptError,
    TagTakenError,
)
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.retention import retain
from selfware_checkpointd.store import Store
from selfware_checkpointd.tags import Tags, decode_tags, encode_tags
from selfware_checkpointd.thinning import Policy
from tests.unit.selfware_checkpointd.helpers import flip, state

NOTHING_STAYS = Policy(retention_days=-1, max_size_bytes=0)


def filled(directory: Path) -> Store:
    store = Store(directory)
    for sequence in (1, 2, 3):
        store.save("s", Level.TASK, sequence, state(sequence), "", sequence)
    return store


def test_the_bytes_of_the_file_are_those_of_version_1() -> None:
    data = encode_tags({"release": 7, "before-the-refactoring": 1 << 40})
    assert len(data) == 2 * (20 + (10 + 22) + (10 + 7) + 4)
    assert blake3(data).hexdigest()[:32] == "de26519911db20bdccb216bedc11c841"


def test_a_tag_is_found_after_a_restart_and_instead_of_an_id(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.tag("ckpt-00000002", "good")
    store.tag("ckpt-00000002", "good")
    for now in (store, Store(tmp_path)):
        assert now.tags.all() == {"good": 2}
        assert now.find("good").sequence == 2
        assert now.load("good")[1] == state(2)
    assert store.untag("good") == 2
    with pytest.raises(CheckpointNotFoundError):
        Store(tmp_path).find("good")
    with pytest.raises(TagNotFoundError):
        store.untag("good")


def test_a_name_belongs_to_one_checkpoint_and_must_look_like_one(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.tag("ckpt-00000001", "good")
    with pytest.raises(TagTakenError, match="belongs to ckpt-00000001"):
        store.tag("ckpt-00000002", "good")
    for name in ("", "ckpt-00000001", "a b", "-x", "x" * 65, "ä"):
        with pytest.raises(InvalidTagError):
            store.tag("ckpt-00000001", name)
    with pytest.raises(CheckpointNotFoundError):
        store.tag("ckpt-00000009", "better")


def test_a_tagged_checkpoint_outlives_age_and_limit(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.tag("ckpt-00000001", "good")
    retain(store, NOTHING_STAYS, 1 << 60)
    assert [info.sequence for info in store.checkpoints()] == [3, 1]
    store.tags.untag("good")
    retain(store, NOTHING_STAYS, 1 << 60)
    assert [info.sequence for info in store.checkpoints()] == [3]


def test_one_flipped_byte_anywhere_loses_no_tag(tmp_path: Path) -> None:
    Tags(tmp_path).tag(7, "good")
    size = (tmp_path / "tags").stat().st_size
    for offset in range(size):
        flip(tmp_path / "tags", offset)
        assert Tags(tmp_path).all() == {"good": 7}
        flip(tmp_path / "tags", offset)


def test_while_the_tags_cannot_be_read_nothing_is_deleted(tmp_path: Path) -> None:
    filled(tmp_path).tag("ckpt-00000001", "good")
    whole = (tmp_path / "tags").read_bytes()
    for damaged in (whole[:-1], b"", bytes(len(whole))):
        (tmp_path / "tags").write_bytes(damaged)
        store = Store(tmp_path)
        assert "neither copy matches its checksum" in store.opened[0]
        assert "deleted nothing" in retain(store, NOTHING_STAYS, 1 << 60)
        assert len(store.checkpoints()) == 3
        with pytest.raises(TagsCorruptError):
            store.tag("ckpt-00000002", "other")
    (tmp_path / "tags").write_bytes(whole)
    retain(store, NOTHING_STAYS, 1 << 60)
    assert [info.sequence for info in store.checkpoints()] == [3, 1]


def test_tags_of_a_newer_selfware_are_not_guessed_at(tmp_path: Path) -> None:
    from zlib import crc32

    copy = encode_tags({})[:20]
    newer = copy[:8] + b"\x02\x00" + copy[10:]
    newer += crc32(newer).to_bytes(4, "little")
    (tmp_path / "tags").write_bytes(newer * 2)
    with pytest.raises(FormatVersionError, match="version 2"):
        Tags(tmp_path)
    assert decode_tags(b"") is None


def test_names_are_told_while_a_save_holds_the_store(tmp_path: Path) -> None:
    """The event loop asks for them with every list."""
    store = Store(tmp_path)
    info = store.save("s", Level.SESSION, 1, b"x" * 1000, "", 1)
    store.tag(info.checkpoint_id, "kept")
    held, done = threading.Event(), threading.Event()

    def save() -> None:
        with store._lock:
            held.set()
            done.wait(10)

    saving = threading.Thread(target=save)
    saving.start()
    held.wait(10)
    asking = threading.Thread(target=store.names, daemon=True)
    asking.start()
    asking.join(5)
    is_told = not asking.is_alive()
    done.set()
    saving.join()
    assert is_told
    assert store.names() == {info.number: ["kept"]}
