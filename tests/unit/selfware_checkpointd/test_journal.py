from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from selfware_checkpointd.errors import (
    FormatVersionError,
    InvalidRecordError,
    JournalCorruptError,
    JournalStoppedError,
    SequenceConflictError,
    SequenceGapError,
    StaleWriterError,
    StorageError,
)
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.segment import HEADER, HEADER_BYTES, Record, encode_record, scan
from tests.unit.selfware_checkpointd.helpers import event, events, flip

FIRST_SEGMENT = "00000000000000000001.wal"


def reopened(directory: Path) -> Journal:
    return Journal(directory, "s")


def test_events_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append(events(1, 3))
    journal.append([event(4)])
    again = reopened(tmp_path)
    assert list(again.read()) == events(1, 4)
    assert list(again.read(2)) == events(3, 4)
    assert list(again.read(4)) == []
    assert again.last_sequence == 4
    again.append([event(5)])
    assert [record.sequence for record in again.read(3)] == [4, 5]


@pytest.mark.parametrize("cut", [1, 7, 20, 43, 60])
def test_torn_tail_is_cut_and_named_in_one_sentence(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path, "s")
    for sequence in (1, 2, 3):
        journal.append([event(sequence)])
    os.truncate(tmp_path / FIRST_SEGMENT, (tmp_path / FIRST_SEGMENT).stat().st_size - cut)
    again = reopened(tmp_path)
    (sentence,) = again.opened
    assert "unfinished bytes" in sentence and "the last event is 2" in sentence
    assert list(again.read()) == events(1, 2)
    again.append([event(3)])
    assert list(reopened(tmp_path).read()) == events(1, 3)
    assert reopened(tmp_path).opened == []


def test_zeros_after_the_last_event_are_a_torn_tail(tmp_path: Path) -> None:
    Journal(tmp_path, "s").append(events(1, 2))
    with (tmp_path / FIRST_SEGMENT).open("ab") as file:
        file.write(bytes(5000))
    again = reopened(tmp_path)
    assert "cut 5000 unfinished bytes" in again.opened[0]
    assert list(again.read()) == events(1, 2)


def test_a_batch_that_reached_the_disk_in_the_wrong_order_is_a_torn_tail(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append([event(1)])
    start = (tmp_path / FIRST_SEGMENT).stat().st_size
    journal.append(events(2, 5))
    flip(tmp_path / FIRST_SEGMENT, start + 50)  # event 2 is bad; 3 to 5 of the same batch are whole
    again = reopened(tmp_path)
    assert again.damage is None
    assert list(again.read()) == [event(1)]


def test_an_empty_segment_left_by_a_crash_is_removed(tmp_path: Path) -> None:
    Journal(tmp_path, "s").append(events(1, 2))
    (tmp_path / "00000000000000000003.wal").write_bytes(b"SFW")
    again = reopened(tmp_path)
    again.append([event(3)])
    assert list(again.read()) == events(1, 3)


def test_flipped_byte_in_the_middle_is_named_and_reading_up_to_it_stays_possible(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    offsets = []
    for sequence in range(1, 6):
        offsets.append((tmp_path / FIRST_SEGMENT).stat().st_size if sequence > 1 else HEADER_BYTES)
        journal.append([event(sequence)])
    flip(tmp_path / FIRST_SEGMENT, offsets[2] + 50)
    again = reopened(tmp_path)
    good: list[Record] = []
    with pytest.raises(JournalCorruptError) as caught:
        good.extend(again.read())
    assert [record.sequence for record in good] == [1, 2]
    assert caught.value.fields == {"session_id": "s", "segment": FIRST_SEGMENT, "offset": offsets[2], "last_good": 2}
    with pytest.raises(JournalCorruptError, match="last good event is 2"):
        again.append([event(6)])
    assert [record.sequence for record in again.read(3)] == [4, 5], "what follows the damage is still readable"


def test_damage_that_a_checkpoint_covers_does_not_stop_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    for sequence in range(1, 6):
        journal.append([event(sequence)])
    flip(tmp_path / FIRST_SEGMENT, HEADER_BYTES + 50)
    again = reopened(tmp_path)
    again.cover(4)
    again.append([event(6)])
    assert [record.sequence for record in reopened(tmp_path).read(4)] == [5, 6]


def test_a_checkpoint_beyond_the_journal_moves_the_next_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append(events(1, 3))
    journal.cover(10)
    with pytest.raises(SequenceGapError):
        journal.append([event(12)])
    journal.append([event(11)])
    again = reopened(tmp_path)
    assert list(again.read(10)) == [event(11)]
    with pytest.raises(JournalCorruptError, match="last good event is 3"):
        list(again.read(0))


def test_full_segments_are_compressed_and_read_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=2000)
    for sequence in range(1, 101):
        journal.append([event(sequence)])
    assert journal.seal() > 2
    assert journal.seal() == 0
    assert list(journal.read()) == events(1, 100)
    assert list(journal.read(50)) == events(51, 100)
    journal.append([event(7)])  # a repetition found in a compressed segment
    assert list(Journal(tmp_path, "s").read(98)) == events(99, 100)
    assert len(list(tmp_path.glob("*.wal"))) == 1


def test_damage_in_a_compressed_segment_is_corruption(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=2000)
    for sequence in range(1, 101):
        journal.append([event(sequence)])
    journal.seal()
    second = sorted(tmp_path.glob("*.zst"))[1]
    flip(second, second.stat().st_size // 2)
    good: list[Record] = []
    with pytest.raises(JournalCorruptError):
        good.extend(journal.read())
    assert good == events(1, len(good)) and len(good) >= int(second.name[:20]) - 1


def test_a_crash_between_compressing_and_removing_leaves_nothing_double(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=500)
    for sequence in range(1, 21):
        journal.append([event(sequence)])
    plain = (tmp_path / FIRST_SEGMENT).read_bytes()
    journal.seal()
    (tmp_path / FIRST_SEGMENT).write_bytes(plain)
    (tmp_path / "00000000000000000009.wal.zst.tmp").write_bytes(b"half")
    again = reopened(tmp_path)
    assert list(again.read()) == events(1, 20)
    again.seal()
    assert not (tmp_path / FIRST_SEGMENT).exists() and not list(tmp_path.glob("*.tmp"))


def test_a_plain_segment_is_not_removed_for_a_damaged_compressed_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=500)
    for sequence in range(1, 21):
        journal.append([event(sequence)])
    plain = (tmp_path / FIRST_SEGMENT).read_bytes()
    journal.seal()
    (tmp_path / FIRST_SEGMENT).write_bytes(plain)
    sealed = tmp_path / (FIRST_SEGMENT + ".zst")
    flip(sealed, sealed.stat().st_size // 2)
    again = reopened(tmp_path)
    assert again.seal() == 1
    assert not (tmp_path / FIRST_SEGMENT).exists()
    assert list(again.read()) == events(1, 20)


def test_a_damaged_header_costs_no_event_and_stops_nobody(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=500)
    for sequence in range(1, 10):
        journal.append([event(sequence)])
    newest = max(tmp_path.glob("*.wal"))
    whole = newest.read_bytes()
    flip(newest, 13)
    again = reopened(tmp_path)
    assert again.damage is None
    assert again.opened == [f"journal of s: wrote the damaged header of {newest.name} anew; no event was lost with it"]
    assert newest.read_bytes() == whole
    again.append([event(10)])
    assert list(reopened(tmp_path).read()) == events(1, 10)
    assert reopened(tmp_path).opened == []


def test_a_missing_segment_is_corruption(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=500)
    for sequence in range(1, 21):
        journal.append([event(sequence)])
    sorted(tmp_path.glob("*.wal"))[1].unlink()
    with pytest.raises(JournalCorruptError):
        list(reopened(tmp_path).read())


def test_the_same_event_again_is_acknowledged_and_not_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append(events(1, 3))
    before = journal.size_bytes
    journal.append(events(1, 3))
    journal.append([event(2, epoch=5)])  # another writer repeating it is fine
    assert journal.size_bytes == before
    journal.append(events(2, 5))  # a repetition and news in one call
    assert list(journal.read()) == events(1, 5)


def test_other_bytes_under_a_used_number_are_a_conflict(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append(events(1, 2))
    for wrong in (event(1, b"other"), event(1, kind="Other"), event(2, b"other")):
        with pytest.raises(SequenceConflictError):
            journal.append([wrong])
    with pytest.raises(SequenceConflictError):
        journal.append([event(3, b"x"), event(3, b"y")])
    assert list(journal.read()) == events(1, 2)


def test_a_gap_is_refused_and_nothing_of_the_call_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    with pytest.raises(SequenceGapError, match="expects event 2 next and was given event 3"):
        journal.append([event(1), event(3)])
    for sequence in (0, 2):
        with pytest.raises(SequenceGapError):
            journal.append([event(sequence)])
    assert list(journal.read()) == []


def test_one_refused_submission_does_not_touch_the_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    outcomes = journal.commit([[event(1)], [event(9)], [event(2)]])
    assert [type(outcome) for outcome in outcomes] == [type(None), SequenceGapError, type(None)]
    assert list(journal.read()) == events(1, 2)


def test_an_older_writer_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append([event(1, epoch=1)])
    assert journal.fence(2) == 1
    with pytest.raises(StaleWriterError):
        journal.append([event(2, epoch=1)])
    journal.append([event(2, epoch=2)])


def test_an_event_that_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    with pytest.raises(InvalidRecordError):
        journal.append([Record(1, 1, -5, "Kind", b"")])
    with pytest.raises(InvalidRecordError):
        journal.append([Record(1, 1, 5, "k" * 70_000, b"")])


def test_a_failed_sync_acknowledges_nothing_and_appending_goes_on_afterwards(tmp_path: Path) -> None:
    failing = False

    def sync(file: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")
        os.fdatasync(file)

    journal = Journal(tmp_path, "s", sync=sync)
    journal.append([event(1)])
    size = (tmp_path / FIRST_SEGMENT).stat().st_size
    failing = True
    with pytest.raises(StorageError, match="Input/output error"):
        journal.append([event(2)])
    assert (tmp_path / FIRST_SEGMENT).stat().st_size == size
    assert list(journal.read()) == [event(1)]
    failing = False
    journal.append([event(2)])
    assert list(reopened(tmp_path).read()) == events(1, 2)


def test_a_failed_write_that_cannot_be_taken_back_stops_the_journal_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError(5, "Input/output error")

    journal = Journal(tmp_path, "s")
    journal.append([event(1)])
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_sync", fail)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageError):
            journal.append([event(2)])
        with pytest.raises(JournalStoppedError, match="could not be taken back"):
            journal.append([event(3), event(4)])
        assert list(journal.read()) == [event(1)]
    journal.append([event(2, b"the disk is well again")])
    assert list(reopened(tmp_path).read()) == [event(1), event(2, b"the disk is well again")]
    journal.close()
    with pytest.raises(JournalStoppedError, match="it was closed"):
        journal.append([event(3)])


def test_a_segment_of_another_version_is_named_and_left_alone(tmp_path: Path) -> None:
    head = HEADER.pack(b"SFWJRNL\n", 9, 0, 1)
    (tmp_path / FIRST_SEGMENT).write_bytes(head + crc32(head).to_bytes(4, "little") + b"new things")
    with pytest.raises(FormatVersionError, match="format version 9"):
        reopened(tmp_path)
    assert (tmp_path / FIRST_SEGMENT).stat().st_size == 34


def test_the_segment_format_is_pinned(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    journal.append(events(1, 2))
    journal.append([Record(7, 3, 42, "Zażółć", bytes(range(256)))])
    assert (
        blake3((tmp_path / FIRST_SEGMENT).read_bytes()).hexdigest()
        == "011387f6c832532c762fdc9449c7929aea789e43cb68d826f6af4cc2a739a26f"
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.text(max_size=20), st.text(max_size=20), st.binary(max_size=300)),
        max_size=12,
    )
)
def test_any_record_survives_encoding_and_any_marks_in_it(fields: list[tuple[int, str, str, bytes]]) -> None:
    records = [
        Record(number, sequence, number, _plain(kind), b"\xa5SFR" + payload, _plain(trace))
        for sequence, (number, kind, trace, payload) in enumerate(fields, 1)
    ]
    from selfware_checkpointd.segment import encode_header

    data = encode_header(1)
    for record in records:
        data += encode_record(record, len(data))
    found = scan(data, 1)
    assert [placed.record for placed in found.records] == records
    assert found.bad_offset is None


def _plain(text: str) -> str:
    return text.encode(errors="replace").decode()


_WRITER = """
import sys
from pathlib import Path
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.segment import Record
journal = Journal(Path(sys.argv[1]), "s", segment_bytes=20_000)
sequence = journal.last_sequence
while True:
    sequence += 1
    journal.append([Record(1, sequence, 1, "Step", b"payload %d" % sequence * 20)])
    print(sequence, flush=True)
    if sequence % 100 == 0:
        journal.seal()
"""


def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'daemons'}:{root}"}
    acknowledged = 0
    for target in (150, 333, 407):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert child.stdout is not None
        while acknowledged < target:
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in child.stdout.read().splitlines() if line)])
        child.wait()
        child.stdout.close()
        found = [record.sequence for record in reopened(tmp_path).read()]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged


def test_ten_thousand_steps_of_two_kilobytes_stay_small(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", sync=lambda _: None)
    for first in range(1, 10_001, 100):
        journal.append(
            [event(n, os.urandom(750).hex().encode() + b'{"tool": "run"}' * 33) for n in range(first, first + 100)]
        )
    journal.seal()
    assert journal.size_bytes < 60_000_000 / 2
    assert sum(1 for _ in journal.read()) == 10_000


def test_whichever_byte_is_flipped_no_wrong_event_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s")
    for sequence in range(1, 6):
        journal.append([event(sequence)])
    whole = (tmp_path / FIRST_SEGMENT).read_bytes()
    for offset in range(0, len(whole), 3):
        flip(tmp_path / FIRST_SEGMENT, offset)
        good: list[Record] = []
        try:
            for record in reopened(tmp_path).read():
                good.append(record)
        except JournalCorruptError as error:
            assert error.fields["last_good"] == len(good)
        assert good == events(1, len(good))
        (tmp_path / FIRST_SEGMENT).write_bytes(whole)
