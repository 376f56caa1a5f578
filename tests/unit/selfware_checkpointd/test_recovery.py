from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.recovery import Recovery, recover
from selfware_checkpointd.store import Store
from tests.unit.selfware_checkpointd.helpers import event, events, flip, state


def make(root: Path, last_event: int, *checkpoints: int) -> None:
    journal, store = Journal(root / "journal", "s"), Store(root / "checkpoints")
    for sequence in range(1, last_event + 1):
        journal.append([event(sequence)])
    for sequence in checkpoints:
        store.save("s", Level.TASK, sequence, state(sequence), "", sequence)


def recovered(root: Path, checkpoint_id: str = "") -> Recovery:
    """Twice, from scratch: the answer must be the same."""
    answers = [
        recover("s", Store(root / "checkpoints"), Journal(root / "journal", "s"), checkpoint_id) for _ in range(2)
    ]
    assert answers[0] == answers[1]
    return answers[0]


def sequences(recovery: Recovery) -> list[int]:
    return [record.sequence for record in recovery.events]


def pack(root: Path, number: int) -> Path:
    return root / "checkpoints" / f"ckpt-{number:08d}.pack"


def test_nothing_at_all_is_the_empty_state(tmp_path: Path) -> None:
    assert recovered(tmp_path) == Recovery(None, b"", (), ())


def test_the_newest_checkpoint_and_the_events_after_it(tmp_path: Path) -> None:
    make(tmp_path, 10, 4, 8)
    recovery = recovered(tmp_path)
    assert recovery.state == state(8) and sequences(recovery) == [9, 10]
    assert recovery.last_sequence == 10 and recovery.skipped == ()


def test_a_checkpoint_that_was_asked_for(tmp_path: Path) -> None:
    make(tmp_path, 10, 4, 8)
    assert sequences(recovered(tmp_path, "ckpt-00000001")) == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("offset", [9, 50_000, -10, -80])
def test_a_flipped_byte_in_the_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, offset: int) -> None:
    make(tmp_path, 10, 4, 8)
    flip(pack(tmp_path, 2), offset)
    recovery = recovered(tmp_path)
    assert recovery.state == state(4) and sequences(recovery) == [5, 6, 7, 8, 9, 10]
    (sentence,) = recovery.skipped
    assert sentence.startswith("Checkpoint ckpt-00000002 is damaged: ")


def test_a_missing_pack_falls_back_too(tmp_path: Path) -> None:
    make(tmp_path, 3, 1)
    store = Store(tmp_path / "checkpoints")
    store.save("s", Level.TASK, 2, state(2), "", 2)
    store.save("s", Level.TASK, 3, state(2) + b"shares the chunks of the one before", "", 3)
    pack(tmp_path, 2).unlink()
    recovery = recovered(tmp_path)
    assert recovery.state == state(1) and sequences(recovery) == [2, 3]
    assert "ckpt-00000002, which holds" in recovery.skipped[0]


def test_without_an_intact_checkpoint_the_whole_journal_is_folded(tmp_path: Path) -> None:
    make(tmp_path, 3, 1, 2)
    flip(pack(tmp_path, 1), 50_000)
    flip(pack(tmp_path, 2), 50_000)
    recovery = recovered(tmp_path)
    assert recovery.checkpoint is None and recovery.state == b"" and sequences(recovery) == [1, 2, 3]
    assert len(recovery.skipped) == 2
    with pytest.raises(CheckpointCorruptError):
        recovered(tmp_path, "ckpt-00000002")


def test_events_lost_before_the_checkpoint_do_not_matter(tmp_path: Path) -> None:
    make(tmp_path, 10, 8)
    segment = tmp_path / "journal" / "00000000000000000001.wal"
    flip(segment, 200)
    recovery = recovered(tmp_path)
    assert recovery.state == state(8) and sequences(recovery) == [9, 10] and recovery.skipped == ()


def test_a_journal_that_ends_before_the_checkpoint_goes_on_after_it(tmp_path: Path) -> None:
    make(tmp_path, 10, 8)
    segment = tmp_path / "journal" / "00000000000000000001.wal"
    os.truncate(segment, segment.stat().st_size // 2)
    recovery = recovered(tmp_path)
    assert recovery.state == state(8) and recovery.events == () and recovery.last_sequence == 8


def test_a_torn_tail_loses_only_what_was_never_acknowledged(tmp_path: Path) -> None:
    make(tmp_path, 10, 8)
    with (tmp_path / "journal" / "00000000000000000001.wal").open("ab") as file:
        file.write(b"\xa5SFR half a record")
    assert list(recovered(tmp_path).events) == events(9, 10)


def test_damage_after_the_checkpoint_gives_the_events_before_it_and_says_so(tmp_path: Path) -> None:
    make(tmp_path, 10, 4)
    data = (tmp_path / "journal" / "00000000000000000001.wal").read_bytes()
    flip(tmp_path / "journal" / "00000000000000000001.wal", data.index(b"event 7"))
    recovery = recovered(tmp_path)
    assert sequences(recovery) == [5, 6]
    assert "the last good event is 6" in recovery.skipped[0]
