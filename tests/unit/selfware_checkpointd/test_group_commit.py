from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from selfware_checkpointd.errors import SequenceGapError, StorageError
from selfware_checkpointd.group_commit import GroupCommitter, Writers
from selfware_checkpointd.journal import Journal
from tests.unit.selfware_checkpointd.helpers import event, events


def test_nobody_is_acknowledged_before_the_sync_and_all_share_one(tmp_path: Path) -> None:
    gate, syncs = threading.Event(), 0

    def sync(file: int) -> None:
        nonlocal syncs
        gate.wait(10)
        syncs += 1
        os.fdatasync(file)

    async def scenario() -> None:
        nonlocal syncs
        gate.set()
        journal = Journal(tmp_path, "s", sync=sync)
        door = GroupCommitter(journal, Writers(quick_seconds=0))
        await door.submit([event(1)])
        gate.clear()
        syncs = 0
        writers = [door.submit([event(sequence)]) for sequence in range(2, 50)]
        await asyncio.wait(writers, timeout=0.1)
        assert not any(writer.done() for writer in writers)
        gate.set()
        await asyncio.gather(*writers)
        assert syncs == 1
        assert list(journal.read()) == events(1, 49)
        await door.close()

    asyncio.run(scenario())


def test_callers_that_come_during_a_write_share_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = Journal(tmp_path, "s")
        door = GroupCommitter(journal)
        await asyncio.gather(*(door.submit([event(sequence)]) for sequence in range(1, 501)))
        await asyncio.gather(*(door.submit([event(sequence)]) for sequence in range(501, 1001)))
        assert list(Journal(tmp_path, "s").read()) == events(1, 1000)
        await door.close()

    asyncio.run(scenario())


def test_each_caller_hears_its_own_refusal(tmp_path: Path) -> None:
    async def scenario() -> None:
        door = GroupCommitter(Journal(tmp_path, "s"))
        outcomes = await asyncio.gather(
            door.submit([event(1)]), door.submit([event(5)]), door.submit([event(2)]), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), SequenceGapError, type(None)]
        await door.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("quick_seconds", [0, 10])
def test_a_failed_write_is_every_callers_error(tmp_path: Path, quick_seconds: float) -> None:
    failing = False

    def sync(file: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    async def scenario() -> None:
        nonlocal failing
        door = GroupCommitter(Journal(tmp_path, "s", sync=sync), Writers(quick_seconds))
        await door.submit([event(1)])
        failing = True
        outcomes = await asyncio.gather(door.submit([event(2)]), door.submit([event(3)]), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageError, StorageError]
        failing = False
        await door.submit(events(2, 3))
        await door.close()

    asyncio.run(scenario())


def test_a_caller_that_gave_up_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        door = GroupCommitter(Journal(tmp_path, "s"))
        first = door.submit([event(1)])
        second = door.submit([event(2)])
        await asyncio.sleep(0)
        first.cancel()
        await second
        await door.close()
        assert list(Journal(tmp_path, "s").read()) == events(1, 2)

    asyncio.run(scenario())


def test_a_follower_wakes_when_an_event_lands(tmp_path: Path) -> None:
    async def scenario() -> None:
        door = GroupCommitter(Journal(tmp_path, "s"))
        follower = asyncio.create_task(door.wait_beyond(0))
        await asyncio.sleep(0)
        assert not follower.done()
        await door.submit([event(1)])
        await asyncio.wait_for(follower, 5)
        await door.close()

    asyncio.run(scenario())


def test_journals_that_share_the_threads_are_synced_side_by_side(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=20)
    waits = False

    def sync(file: int) -> None:
        if waits:
            together.wait()  # broken, and an error, unless a second fdatasync begins before this one ends
        os.fdatasync(file)

    async def scenario() -> None:
        nonlocal waits
        writers = Writers(quick_seconds=0)
        doors = [GroupCommitter(Journal(tmp_path / name, name, sync=sync), writers) for name in ("a", "b")]
        for door in doors:
            await door.submit([event(1)])
        waits = True
        await asyncio.gather(*(door.submit([event(2)]) for door in doors))
        for door in doors:
            await door.close()
        writers.close()

    asyncio.run(scenario())
    for name in ("a", "b"):
        assert list(Journal(tmp_path / name, name).read()) == events(1, 2)


@pytest.mark.parametrize("quick_seconds", [0, 10])
def test_more_journals_than_threads_all_become_durable(tmp_path: Path, quick_seconds: float) -> None:
    async def scenario() -> None:
        writers = Writers(quick_seconds, threads=2)
        doors = [GroupCommitter(Journal(tmp_path / str(number), "s"), writers) for number in range(9)]

        async def write(door: GroupCommitter) -> None:
            for sequence in range(1, 31):
                await door.submit([event(sequence)])
                assert door.journal.last_sequence == sequence

        await asyncio.gather(*(write(door) for door in doors))
        for door in doors:
            await door.close()
        writers.close()

    asyncio.run(scenario())
    for number in range(9):
        assert list(Journal(tmp_path / str(number), "s").read()) == events(1, 30)


def test_a_stuck_journal_does_not_hold_up_the_others(tmp_path: Path) -> None:
    gate = threading.Event()
    gate.set()

    def sync(file: int) -> None:
        assert gate.wait(20)
        os.fdatasync(file)

    async def scenario() -> None:
        writers = Writers(quick_seconds=0)
        stuck = GroupCommitter(Journal(tmp_path / "stuck", "stuck", sync=sync), writers)
        other = GroupCommitter(Journal(tmp_path / "other", "other"), writers)
        await stuck.submit([event(1)])
        gate.clear()
        held = stuck.submit([event(2)])
        await asyncio.sleep(0)
        for sequence in range(1, 20):
            await asyncio.wait_for(other.submit([event(sequence)]), 20)
        assert not held.done()
        gate.set()
        await held
        for door in (stuck, other):
            await door.close()
        writers.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("quick_seconds", [0, 10])
def test_a_defect_is_heard_by_every_caller_and_the_door_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_seconds: float
) -> None:
    async def scenario() -> None:
        door = GroupCommitter(Journal(tmp_path, "s"), Writers(quick_seconds))
        await door.submit([event(1)])
        with monkeypatch.context() as patch:
            patch.setattr(door.journal, "begin", lambda _: 1 / 0)
            outcomes = await asyncio.gather(door.submit([event(2)]), door.submit([event(3)]), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, ZeroDivisionError]
        await door.submit([event(2)])
        await door.close()

    asyncio.run(scenario())


def test_journals_of_one_thread_are_all_written_before_the_first_is_synced(tmp_path: Path) -> None:
    """So the file system does its book-keeping for all of them in the first sync."""
    seen: list[list[int]] = []
    names = [f"s{number}" for number in range(5)]

    def sync(file: int) -> None:
        seen.append([sum(path.stat().st_size for path in (tmp_path / name).iterdir()) for name in names])
        os.fdatasync(file)

    async def scenario() -> None:
        writers = Writers(quick_seconds=0, threads=1)
        doors = [GroupCommitter(Journal(tmp_path / name, name, sync=sync), writers) for name in names]
        await asyncio.gather(*(door.submit([event(1)]) for door in doors))
        before = len(seen)
        await asyncio.gather(*(door.submit([event(2)]) for door in doors))
        assert len(seen) - before == len(doors), "one sync each"
        assert all(sizes == seen[-1] for sizes in seen[before:])
        for door in doors:
            assert [record.sequence for record in door.journal.read()] == [1, 2]
            await door.close()
        writers.close()

    asyncio.run(scenario())
