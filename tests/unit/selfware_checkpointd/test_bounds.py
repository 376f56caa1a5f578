"""The limit holds for everything below the root, at every moment, whatever is saved, read or packed meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from selfware_checkpointd.errors import StoreFullError
from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.reserve import Reserve
from selfware_checkpointd.room import Room
from selfware_checkpointd.store import Store, Subject
from selfware_checkpointd.thinning import Policy
from tests.unit.selfware_checkpointd.helpers import event, flip, state

MIB = 1 << 20
LIMIT = 4 * MIB
POLICY = Policy(7, LIMIT, dict.fromkeys(Level, 20))
SECOND = 1_000_000_000


def stored(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What lay below the directory after each write of a byte, into whatever file."""
    seen: list[int] = []
    write, allocate = os.write, os.posix_fallocate

    def writing(file: int, data: Any) -> int:
        count = write(file, data)
        seen.append(stored(tmp_path))
        return count

    def allocating(file: int, offset: int, size: int) -> None:
        allocate(file, offset, size)
        seen.append(stored(tmp_path))

    monkeypatch.setattr(os, "write", writing)
    monkeypatch.setattr(os, "posix_fallocate", allocating)
    yield seen


class Writer:
    """Saves states of which a third is new each time."""

    def __init__(self, memory: Memory, size: int = 300_000) -> None:
        self.memory, self.size = memory, size
        self.data = state(0, size)
        self.saved: dict[str, bytes] = {}
        self.epoch = memory.sessions.open("s", "w", 1).epoch

    async def save(self, sequence: int, level: Level = Level.SESSION) -> CheckpointInfo:
        self.data = self.data[self.size // 3 :] + state(sequence, self.size // 3)
        info = await self.memory.save("s", self.epoch, level, sequence, self.data, "")
        self.saved[info.checkpoint_id] = self.data
        return info

    def check(self) -> None:
        """Whatever is there is whole."""
        for info in self.memory.store.checkpoints():
            assert self.memory.store.load(info.checkpoint_id)[1] == self.saved[info.checkpoint_id]


def test_the_limit_is_not_passed_for_a_moment(tmp_path: Path, watched: list[int]) -> None:
    async def scenario() -> None:
        now = 0
        memory = Memory(tmp_path, lambda: now, policy=POLICY)
        writer = Writer(memory)
        for sequence in range(1, 120):
            now += 30 * SECOND
            await memory.append("s", writer.epoch, [event(sequence, state(sequence, 9_000), writer.epoch)])
            await writer.save(sequence, list(Level)[sequence % 4])
            if sequence % 10 == 0:
                await memory.maintain(POLICY)
        writer.check()
        assert (await memory.recover("s")).last_sequence == 119
        await memory.close()

    asyncio.run(scenario())
    assert max(watched) <= LIMIT
    assert max(watched) > LIMIT // 2, "and it is made use of"


def test_without_upkeep_saves_make_room_themselves(tmp_path: Path, watched: list[int]) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 1, policy=POLICY)
        writer = Writer(memory)
        for sequence in range(1, 80):
            await writer.save(sequence)
        assert 5 < len(memory.store.checkpoints()) < 40
        writer.check()
        await memory.close()

    asyncio.run(scenario())
    assert max(watched) <= LIMIT


def test_what_comes_in_through_a_file_counts_while_it_is_there(tmp_path: Path) -> None:
    memory = Memory(tmp_path, lambda: 1, policy=POLICY)
    room = memory.bounds.room
    before = room.left_bytes()
    with room.claim(MIB, is_written=True):
        assert room.left_bytes() == room.most_bytes() == before - MIB
        with room.claim(MIB):
            assert room.left_bytes() == before - 2 * MIB
            assert room.most_bytes() == before - MIB
    assert room.left_bytes() == before


def test_everything_below_the_root_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        policy = Policy(7, 64 * MIB, dict.fromkeys(Level, 20))
        memory = Memory(tmp_path, lambda: 1, policy=policy)
        writer = Writer(memory)
        for sequence in range(1, 10):
            await memory.append("s", writer.epoch, [event(sequence, state(sequence, 9_000), writer.epoch)])
            await writer.save(sequence)
        for _ in range(2):
            assert 0 <= memory.bounds.room.used_bytes() - stored(tmp_path) < 25 * 4096
            await memory.maintain(policy)
        assert memory.bounds.reserve.size_bytes == 2 * MIB
        await memory.close()
        again = Memory(tmp_path, lambda: 1, policy=policy)
        assert 0 <= again.bounds.room.used_bytes() - stored(tmp_path) < 25 * 4096
        await again.close()

    asyncio.run(scenario())


def test_a_pack_is_written_anew_only_if_there_is_room_for_both_or_too_little_anyway(tmp_path: Path) -> None:
    room = Room()
    store = Store(tmp_path, room=room)
    store.save("s", Level.TASK, 1, state(1, MIB), "", 1)
    room.sizes.append(store.disk_bytes)
    room.limit_bytes = 3 * MIB // 2
    assert store.tighten() == ""
    assert not list(tmp_path.glob("*.tmp"))
    room.limit_bytes = MIB // 2
    assert store.tighten() != ""


def test_a_checkpoint_that_cannot_fit_is_refused_with_a_sentence_and_the_others_stay(
    tmp_path: Path, watched: list[int]
) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 1, policy=POLICY)
        writer = Writer(memory)
        first = await writer.save(1)
        with pytest.raises(StoreFullError, match=r"The store may take 4194304 bytes; a checkpoint of \d+ does not fit"):
            await memory.save("s", writer.epoch, Level.TASK, 2, state(9, 5 * MIB), "")
        assert [info.checkpoint_id for info in memory.store.checkpoints()] == [first.checkpoint_id]
        writer.check()
        await writer.save(3)
        await memory.close()
        assert all(verdict.intact for verdict in await Memory(tmp_path).verify())

    asyncio.run(scenario())
    assert max(watched) <= LIMIT


def test_a_large_state_of_which_little_is_new_needs_little_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 1, policy=POLICY)
        epoch = memory.sessions.open("s", "w", 1).epoch
        data = state(1, 3 * MIB)
        first = await memory.save("s", epoch, Level.SESSION, 1, data, "")
        second = await memory.save("s", epoch, Level.SESSION, 2, data + b"more", "")
        subject = Subject("s", Level.SESSION, 3, "", 0)
        read = lambda room, at: os.preadv(file, [room], at)  # noqa: E731
        file = os.memfd_create("state")
        os.write(file, data + b"still more")
        third = memory.save_from(subject, epoch, 3 * MIB + 10, read)
        os.close(file)
        assert first.stored_bytes > 3 * MIB > 50 * second.stored_bytes
        assert memory.store.load(third.checkpoint_id)[1] == data + b"still more"
        await memory.close()

    asyncio.run(scenario())


def test_room_is_made_though_a_checkpoint_is_being_read(tmp_path: Path, watched: list[int]) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 1, policy=POLICY)
        writer = Writer(memory)
        first = (await writer.save(1)).checkpoint_id
        with memory.store.reading(first) as (_, pieces):
            begun = bytes(next(pieces))
            for sequence in range(2, 60):
                await writer.save(sequence)
            assert begun + b"".join(pieces) == writer.saved[first]
        writer.check()
        await memory.close()

    asyncio.run(scenario())
    assert max(watched) <= LIMIT


def test_events_make_room_too_and_are_never_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 1, policy=POLICY)
        writer = Writer(memory)
        for sequence in range(1, 12):
            await writer.save(sequence)
        before = len(memory.store.checkpoints())
        for sequence in range(12, 300):
            await memory.append("s", writer.epoch, [event(sequence, state(sequence, 9_000), writer.epoch)])
            assert stored(tmp_path) <= LIMIT
        assert len(memory.store.checkpoints()) < before
        for sequence in range(300, 600):  # more than the limit: what must stay stays, and nothing acknowledged is lost
            await memory.append("s", writer.epoch, [event(sequence, state(sequence, 9_000), writer.epoch)])
        assert len(list(memory.read("s", 11))) == 588
        assert "stay" in await memory.maintain(POLICY)
        await memory.close()

    asyncio.run(scenario())


def test_damaged_tags_stop_deleting_but_not_saving(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "tags").write_bytes(b"?")
        memory = Memory(tmp_path, lambda: 1, policy=POLICY)
        writer = Writer(memory)
        with pytest.raises(StoreFullError):
            for sequence in range(1, 60):
                await writer.save(sequence)
        assert len(memory.store.checkpoints()) > 20
        assert stored(tmp_path) <= LIMIT
        await memory.maintain(POLICY)
        assert any("no room could be made" in note for note in memory.notes)
        await memory.close()

    asyncio.run(scenario())


def test_a_damaged_checkpoint_goes_when_it_is_old_or_in_the_way_and_a_newer_one_is_intact(tmp_path: Path) -> None:
    async def scenario(limit: int, now: int) -> tuple[list[str], list[str]]:
        memory = Memory(tmp_path / str(limit + now), lambda: now)
        writer = Writer(memory)
        old = await writer.save(1)
        await writer.save(2)
        await memory.close()
        flip(tmp_path / str(limit + now) / "checkpoints" / f"{old.checkpoint_id}.pack", -1)
        again = Memory(tmp_path / str(limit + now), lambda: now)
        again.notes.clear()
        await again.maintain(Policy(7, limit, dict.fromkeys(Level, 20)))
        left = [verdict.checkpoint_id for verdict in again.store.unreadable()]
        assert [info.sequence for info in again.store.checkpoints()] == [2]
        assert all(verdict.intact for verdict in again.store.verify_all() if verdict.checkpoint_id not in left)
        notes = list(again.notes)
        await again.close()
        return left, notes

    from time import time_ns

    assert asyncio.run(scenario(1 << 40, time_ns())) == (["ckpt-00000001"], [])
    left, notes = asyncio.run(scenario(1 << 40, time_ns() + 8 * 86_400 * SECOND))
    assert left == []
    assert notes == [
        "ckpt-00000001 was deleted: its record is damaged, ckpt-00000002 is intact, and it is older than 7 days"
    ]
    left, notes = asyncio.run(scenario(420_000, time_ns()))
    assert left == []
    assert notes[0].endswith("ckpt-00000002 is intact, and the store is above its limit")


def test_what_a_newer_selfware_wrote_or_cannot_be_read_now_is_not_taken_for_damaged(tmp_path: Path) -> None:
    async def scenario() -> None:
        memory = Memory(tmp_path, lambda: 1)
        writer = Writer(memory)
        first, second = [await writer.save(1), await writer.save(2)]
        await writer.save(3)
        await memory.close()
        newer, unreadable = (tmp_path / f"checkpoints/{one.checkpoint_id}.pack" for one in (first, second))
        header = newer.read_bytes()[:25]
        newer.write_bytes(_of_version(9, header) + newer.read_bytes()[29:])
        whole = unreadable.read_bytes()
        unreadable.write_bytes(whole[:-1] + b"?")
        again = Memory(tmp_path, lambda: 1 << 62)
        assert len(again.store.unreadable()) == 2
        unreadable.write_bytes(whole)  # as if it could not be read at the start
        await again.maintain(Policy(7, 500_000, dict.fromkeys(Level, 20)))
        assert newer.exists()
        assert unreadable.exists()
        await again.close()

    def _of_version(version: int, header: bytes) -> bytes:
        changed = header[:8] + version.to_bytes(2, "little") + header[10:20]
        return changed + crc32(header[24:25], crc32(changed)).to_bytes(4, "little") + header[24:25]

    asyncio.run(scenario())


def test_the_reserve_is_a_share_and_comes_back_only_when_there_is_plenty_of_room(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path)
    reserve.renew(limit_bytes=32 * MIB, left_bytes=MIB - 1)
    assert reserve.size_bytes == 0
    reserve.renew(limit_bytes=32 * MIB, left_bytes=MIB)
    assert reserve.size_bytes == MIB == (tmp_path / "reserve").stat().st_size == Reserve(tmp_path).size_bytes
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= MIB
    assert reserve.release()
    assert not reserve.release()
    assert not (tmp_path / "reserve").exists()
    assert reserve.size_bytes == 0


def test_room_without_a_limit_is_endless() -> None:
    room = Room()
    with room.claim(1 << 50):
        assert room.left_bytes() > 1 << 60
