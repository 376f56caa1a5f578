from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from selfware_checkpointd.errors import SessionNotFoundError, StaleWriterError
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import LastEnd, Memory, Opened
from selfware_checkpointd.retention import newest_only
from tests.unit.selfware_checkpointd.helpers import event, events, state


def test_a_session_lives_on_through_a_restart(tmp_path: Path) -> None:
    async def before() -> None:
        memory = Memory(tmp_path)
        assert await memory.open_session("s", "agent 1") == Opened(1, 0)
        assert await memory.append("s", 1, events(1, 5)) == 5
        await memory.save("s", 1, Level.TASK, 3, state(3), "task done")
        await memory.close()

    async def after() -> None:
        memory = Memory(tmp_path)
        assert await memory.open_session("s", "agent 2") == Opened(2, 5, LastEnd.CRASH)
        recovery = await memory.recover("s")
        assert recovery.state == state(3) and [record.sequence for record in recovery.events] == [4, 5]
        (summary,) = await memory.summaries()
        assert (summary.session_id, summary.epoch, summary.last_sequence, summary.checkpoints) == ("s", 2, 5, 1)
        said = await memory.maintain(newest_only({Level.TASK: 3}))
        assert said.startswith("compressed 0 journal segments, deleted 0 checkpoints, freed 0 bytes")
        assert memory.notes == []
        await memory.close()

    asyncio.run(before())
    asyncio.run(after())


def test_a_polite_stop_is_told_from_a_crash_and_a_stale_writer_cannot_stop_another(tmp_path: Path) -> None:
    async def life() -> tuple[LastEnd, int]:
        memory = Memory(tmp_path)
        opened = await memory.open_session("s", "agent " * 100)
        await memory.close()
        return opened.last_end, opened.epoch

    async def closing(epoch: int) -> None:
        memory = Memory(tmp_path)
        await memory.close_session("s", epoch)
        await memory.close_session("s", epoch)
        await memory.close()

    assert asyncio.run(life()) == (LastEnd.UNKNOWN, 1)
    assert asyncio.run(life()) == (LastEnd.CRASH, 2)
    with pytest.raises(StaleWriterError):
        asyncio.run(closing(1))
    asyncio.run(closing(2))
    assert asyncio.run(life()) == (LastEnd.GRACEFUL, 3)
    assert asyncio.run(life()) == (LastEnd.CRASH, 4)


def test_a_stale_writer_can_neither_append_nor_save(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path)
        await memory.open_session("s", "one")
        await memory.append("s", 1, [event(1)])
        waiting = asyncio.create_task(memory.append("s", 1, [event(2)]))
        opened = await memory.open_session("s", "two")
        landed = not isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], StaleWriterError)
        assert opened.last_sequence == (2 if landed else 1), "what the old writer was promised, the new one sees"
        with pytest.raises(StaleWriterError):
            await memory.append("s", 1, [event(3)])
        with pytest.raises(StaleWriterError):
            await memory.save("s", 1, Level.TASK, 1, b"state", "")
        await memory.close()

    asyncio.run(scenario())


def test_an_unknown_session_is_refused_everywhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path)
        with pytest.raises(SessionNotFoundError):
            await memory.append("s", 1, [event(1)])
        with pytest.raises(SessionNotFoundError):
            await memory.recover("s")
        await memory.close()

    asyncio.run(scenario())


def test_a_journal_cut_behind_its_checkpoint_goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path)
        await memory.open_session("s", "one")
        await memory.append("s", 1, events(1, 3))
        await memory.save("s", 1, Level.TASK, 3, state(3), "")
        await memory.close()
        (tmp_path / "sessions/s/journal/00000000000000000001.wal").unlink()
        again = Memory(tmp_path)
        assert await again.open_session("s", "two") == Opened(2, 3, LastEnd.CRASH)
        assert await again.append("s", 2, [event(4, epoch=2)]) == 4
        assert [record.sequence for record in (await again.recover("s")).events] == [4]
        await again.close()

    asyncio.run(scenario())


def test_a_follower_sees_what_lands(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path)
        await memory.open_session("s", "one")
        follower = asyncio.create_task(memory.wait_beyond("s", 0))
        await memory.append("s", 1, [event(1)])
        await asyncio.wait_for(follower, 5)
        assert list(memory.read("s", 0)) == [event(1)]
        await memory.close()

    asyncio.run(scenario())


def test_one_damaged_session_does_not_hide_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path)
        await memory.open_session("a", "one")
        await memory.open_session("b", "one")
        await memory.close()
        (tmp_path / "sessions/a/writer").write_bytes(b"rubbish")
        again = Memory(tmp_path)
        assert [summary.session_id for summary in await again.summaries()] == ["b"]
        assert "writer record of session a is damaged" in again.notes[0]
        await again.close()

    asyncio.run(scenario())
