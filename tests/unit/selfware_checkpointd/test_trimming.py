"""Old events go once checkpoints hold them: on purpose, told to whoever asks, and never too many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blake3 import blake3

from selfware_checkpointd.errors import EventsLetGoError, JournalCorruptError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.retention import newest_only
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.trimming import (
    DAY_NANOS,
    Closed,
    decode_floor,
    encode_floor,
    through,
    too_many,
    too_old,
    write_floor,
)
from tests.unit.selfware_checkpointd.helpers import event, flip, state

NOW = 100 * DAY_NANOS


def closed(first: int, days_ago: float, session: str = "s", size: int = 100) -> Closed:
    return Closed(session, first, first + 9, size, NOW - int(days_ago * DAY_NANOS))


def test_the_bytes_of_the_floor_are_those_of_version_1() -> None:
    data = encode_floor(1 << 33)
    assert len(data) == 48
    assert blake3(data).hexdigest()[:32] == "76c2fe709ac2c086c228aed888f2b67e"
    assert decode_floor(data) == 1 << 33


def test_what_is_old_goes_if_checkpoints_hold_it() -> None:
    segments = [closed(1, 9), closed(11, 8), closed(21, 6), closed(1, 9, "t")]
    old = too_old(segments, NOW, 7)
    assert [(one.session_id, one.first) for one in old] == [("s", 1), ("s", 11), ("t", 1)]
    assert through(old, {"s": 20, "t": 9}) == {"s": 20}
    assert through(old, {"s": 19}) == {"s": 10}
    assert through(old, {}) == {}


def test_when_journals_take_more_than_a_quarter_the_oldest_go() -> None:
    segments = [closed(1, 3), closed(11, 1), closed(1, 2, "t"), closed(11, 0.5, "t")]
    assert too_many(segments, 400, 1600) == []
    assert [(one.session_id, one.first) for one in too_many(segments, 400, 1599)] == [("s", 1)]
    assert [(one.session_id, one.first) for one in too_many(segments, 400, 800)] == [("s", 1), ("t", 1)]


def test_a_reader_is_told_what_was_let_go_and_the_rest_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=1000)
    for sequence in range(1, 31):
        journal.append([event(sequence, bytes(200))])
    journal.seal()
    segments = journal.closed()
    assert segments[0].first == 1
    assert segments[0].ended_unix_nanos == event(segments[1].first).time_unix_nanos
    before = list(journal.read())
    assert journal.trim(segments[1].last) == 2
    assert journal.trim(segments[1].last) == 0
    floor = segments[1].last
    for now in (journal, Journal(tmp_path, "s")):
        assert now.floor == floor
        assert list(now.read(floor)) == before[floor:]
        with pytest.raises(EventsLetGoError, match=f"Events 1 to {floor} of session s were let go"):
            list(now.read(floor - 1))
        assert now.damage is None
        assert now.opened == []
    journal.append([event(31)])
    journal.trim(10**9)
    assert [record.sequence for record in Journal(tmp_path, "s").read(journal.floor)][-1] == 31


def test_a_crash_between_the_floor_and_the_removal_is_finished_at_the_next_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", segment_bytes=1000)
    for sequence in range(1, 31):
        journal.append([event(sequence, bytes(200))])
    journal.close()
    last = journal.closed()[2].last
    write_floor(tmp_path, last)
    again = Journal(tmp_path, "s")
    assert again.floor == last
    assert sorted(tmp_path.glob("*.wal"))[0].name == f"{last + 1:020d}.wal"
    assert [record.sequence for record in again.read(last)] == list(range(last + 1, 31))


def test_one_flipped_byte_in_the_floor_changes_nothing_and_lost_events_are_still_damage(tmp_path: Path) -> None:
    for offset in range(48):
        (tmp_path / "floor").write_bytes(encode_floor(77))
        flip(tmp_path / "floor", offset)
        assert decode_floor((tmp_path / "floor").read_bytes()) == 77
    (tmp_path / "floor").unlink()
    journal = Journal(tmp_path, "s", segment_bytes=1000)
    for sequence in range(1, 31):
        journal.append([event(sequence, bytes(200))])
    (tmp_path / f"{1:020d}.wal").unlink()
    with pytest.raises(JournalCorruptError):
        list(Journal(tmp_path, "s").read())


async def _month(root: Path, damage: str) -> tuple[str, int]:
    """Ten events a day, a checkpoint a day; what upkeep says at its end, and how far events were let go."""
    now = 0
    memory = Memory(root, lambda: now)
    epoch = (await memory.open_session("s", "w")).epoch
    memory._journals["s"] = Journal(memory.sessions.journal_directory("s"), "s", segment_bytes=2000)
    for day in range(30):
        now = day * DAY_NANOS
        for n in range(10):
            await memory.append("s", epoch, [event(10 * day + n + 1, bytes(200), epoch)._replace(time_unix_nanos=now)])
        level = Level.MICRO if damage == "all micro" else Level.TASK
        await memory.save("s", epoch, level, 10 * day + 10, state(day), "")
    if damage == "all but one":
        for path in sorted(root.glob("checkpoints/*.pack"))[:-2]:
            flip(path, 50_000)
    said = await memory.maintain(Policy(7, 1 << 40, dict.fromkeys(Level, 3)))
    recovered = await memory.recover("s")
    assert recovered.last_sequence == 300
    assert not recovered.skipped
    floor = memory.journal("s").floor
    await memory.close()
    return said, floor


def test_of_a_month_the_events_of_the_last_week_stay(tmp_path: Path) -> None:
    said, floor = asyncio.run(_month(tmp_path, ""))
    assert "journal segments go" in said
    assert 200 <= floor <= 220


def test_checkpoints_that_stand_for_events_stay_though_later_ones_hold_fewer_events(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 10 * DAY_NANOS)
        epoch = (await memory.open_session("s", "w")).epoch
        memory._journals["s"] = Journal(memory.sessions.journal_directory("s"), "s", segment_bytes=1000)
        await memory.append("s", epoch, [event(n, bytes(900), epoch)._replace(time_unix_nanos=n) for n in range(1, 5)])
        await memory.append("s", epoch, [event(5, b"", epoch)._replace(time_unix_nanos=5)])
        for sequence in (4, 5, 1, 2, 1):
            await memory.save("s", epoch, Level.TASK, sequence, state(sequence), "")
        await memory.maintain(Policy(1, 1 << 40, {Level.TASK: 5}))
        assert memory.journal("s").floor == 0, "the two newest ones do not hold them"
        for sequence in (4, 5):
            await memory.save("s", epoch, Level.SESSION, sequence, state(sequence), "")
        again = Memory(tmp_path, lambda: 10 * DAY_NANOS)
        await again.maintain(Policy(1, 1 << 40, {Level.TASK: 5}))
        assert again.journal("s").floor == 4
        for _ in range(3):
            await again.save("s", epoch, Level.SESSION, 2, state(2), "")
            await again.save("s", epoch, Level.TASK, 1, state(1), "")
        await again.maintain(newest_only({Level.TASK: 1, Level.SESSION: 1}))
        assert [info.sequence for info in again.store.checkpoints() if info.sequence >= 4] == [5, 5]
        assert not (await again.recover("s")).skipped

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", ["all but one", "all micro"])
def test_events_stay_that_fewer_than_two_intact_checkpoints_hold(tmp_path: Path, damage: str) -> None:
    said, floor = asyncio.run(_month(tmp_path, damage))
    assert "journal segments go" not in said
    assert floor == 0
