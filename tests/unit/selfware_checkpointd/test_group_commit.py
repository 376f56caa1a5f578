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
