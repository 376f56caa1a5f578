"""Names that somebody else created and did not sync."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfware_checkpointd import files
from selfware_checkpointd.files import make_directory, remove_leftovers
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every directory that was synced, in order."""
    found: list[Path] = []
    real = os.fsync

    def fsync(file: int) -> None:
        found.append(Path(f"/proc/self/fd/{file}").readlink())
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_a_directory_whose_maker_died_before_its_sync_becomes_durable(tmp_path: Path, synced: list[Path]) -> None:
    (tmp_path / "sessions").mkdir()
    make_directory(tmp_path / "sessions" / "one")
    assert synced == [tmp_path, tmp_path / "sessions"]


def test_after_a_failed_sync_of_its_parent_a_directory_is_not_taken_for_durable(
    tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        if path == tmp_path:
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(files, "sync_directory", fail)
        make_directory(tmp_path / "journal")
    make_directory(tmp_path / "journal")
    assert synced == [tmp_path]


def test_names_of_a_killed_predecessor_are_durable_before_they_are_believed(tmp_path: Path, synced: list[Path]) -> None:
    Store(tmp_path / "c").save("s", Level.TASK, 1, b"state", "", 1)
    Journal(tmp_path / "j", "s").close()
    synced.clear()
    (tmp_path / "c" / "ckpt-00000002.pack.tmp").write_bytes(b"half")
    again = Store(tmp_path / "c")  # as after a kill between the rename of the pack and the sync of the directory
    Journal(tmp_path / "j", "s").close()
    assert again.save("s", Level.TASK, 1, b"state", "", 1).number == 1
    assert tmp_path / "c" in synced
    assert tmp_path / "j" in synced
    assert not list(tmp_path.rglob("*.tmp"))


def test_leftovers_go_durably(tmp_path: Path, synced: list[Path]) -> None:
    (tmp_path / "writer.tmp").write_bytes(b"half")
    (tmp_path / "writer").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["writer"]
    assert synced == [tmp_path]
