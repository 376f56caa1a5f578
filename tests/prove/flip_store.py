"""A store of about two megabytes with one of everything that the formats know, and which byte of it means what.

Sessions with sealed, full and half-full segments, one segment both plain and sealed (a crash between the two steps),
incremental checkpoints of every level, deleted ones whose chunks others still use, and chunks that are stored twice
because damage was noticed and healed.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

from selfware_checkpointd import packs, sealing
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.retention import newest_only, retain
from selfware_checkpointd.segment import HEADER_BYTES, Record, scan
from selfware_common.errors import SelfwareError

NOW = 1_700_000_000_000_000_000
SEGMENT_BYTES = 40_000
SESSIONS = {"alpha": 120, "beta": 30, "gamma": 60}  # events
FRAME_START_BYTES = 18  # of zstd: magic, descriptor, window, size, first block
STATE_BYTES = {"alpha": 700_000, "beta": 1_500, "gamma": 150_000}


@dataclass
class Original:
    """What was put in."""

    events: dict[str, list[Record]] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)  # by checkpoint id
    sessions: dict[str, str] = field(default_factory=dict)  # of a checkpoint id
    newest: dict[str, str] = field(default_factory=dict)  # the checkpoint that recovery takes


@dataclass(frozen=True)
class Span:
    """Bytes of one meaning."""

    path: str
    meaning: str
    start: int
    end: int


def make(root: Path, seed: int) -> Original:
    """The same for the same seed."""
    chance = random.Random(seed)
    original = Original()
    memory = Memory(root, lambda: NOW, reserve_bytes=0)
    for session, count in SESSIONS.items():
        memory.sessions.open(session, "writer", NOW)
        journal = Journal(memory.sessions.journal_directory(session), session, SEGMENT_BYTES)
        records = [
            Record(1, number, NOW + number, "StepDone", chance.randbytes(chance.choice([10, 800, 3000])), "ab" * 16)
            for number in range(1, count + 1)
        ]
        for at in range(0, count, 3):
            if at == count // 2:
                journal.seal()
            journal.append(records[at : at + 3])
        journal.close()
        original.events[session] = records
    _leave_both(memory.sessions.journal_directory("alpha"))
    asyncio.run(_save(memory, root, chance, original))
    asyncio.run(memory.close())
    return original


async def _save(memory: Memory, root: Path, chance: random.Random, original: Original) -> None:
    states = {session: chance.randbytes(size) for session, size in STATE_BYTES.items()}
    for number in range(6):
        for session, count in SESSIONS.items():
            state = states[session]
            at = chance.randint(0, len(state))
            states[session] = state[:at] + chance.randbytes(20_000 if len(state) > 10_000 else 40) + state[at + 10 :]
            level = list(Level)[number % 2 if number < 4 else number - 2]
            sequence = count * (number + 1) // 7
            await memory.save(session, 1, level, sequence, states[session], f"save {number}")
    retain(memory.store, newest_only(dict.fromkeys(Level, 1)), NOW)
    await _store_again(memory, root, states["alpha"])
    for info in memory.store.checkpoints():
        original.states[info.checkpoint_id] = memory.store.load(info.checkpoint_id)[1]
        original.sessions[info.checkpoint_id] = info.session_id
    for session in SESSIONS:
        best = max(memory.store.checkpoints(session), key=lambda info: (info.sequence, info.number))
        original.newest[session] = best.checkpoint_id


async def _store_again(memory: Memory, root: Path, state: bytes) -> None:
    """Let the store notice damage, save, and undo the damage: now some chunks are there twice."""
    victim = max(root.glob("checkpoints/ckpt-*"), key=lambda path: path.stat().st_size)
    before = victim.read_bytes()
    damaged = bytearray(before)
    for at in range(len(before) // 8, len(before) * 3 // 4, len(before) // 8):
        damaged[at] ^= 0xFF
    victim.write_bytes(damaged)
    memory.store.verify_all()
    await memory.save("alpha", 1, Level.TASK, SESSIONS["alpha"] - 2, state, "stored again")
    victim.write_bytes(before)


def _leave_both(directory: Path) -> None:
    """As after a crash between sealing and removing: the first full segment is there plain and sealed."""
    plain = min(directory.glob("*" + sealing.PLAIN))
    before = plain.read_bytes()
    sealing.compress(directory, int(plain.name.split(".")[0]))
    plain.write_bytes(before)


def spans(root: Path) -> list[Span]:
    """Every byte of every file, by what it means."""
    found: list[Span] = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size):
        name, size = str(path.relative_to(root)), path.stat().st_size
        if path.name == "writer":
            found += [Span(name, "writer, a copy", 0, size)]
        elif path.name.endswith(sealing.COMPRESSED):
            doubled = path.with_name(path.name.removesuffix(".zst")).exists()
            kind = "sealed segment" + (" beside the plain one" if doubled else "")
            found += [
                Span(name, f"{kind}, frame start", 0, FRAME_START_BYTES),
                Span(name, kind, FRAME_START_BYTES, size),
            ]
        elif path.name.endswith(sealing.PLAIN):
            found += _segment(path, name)
        else:
            found += _pack(path, name)
    return found


def _segment(path: Path, name: str) -> list[Span]:
    data = path.read_bytes()
    records = scan(data, int(path.name.split(".")[0])).records
    newest = path == max(path.parent.glob("*" + sealing.PLAIN))
    kind = "newest segment" if newest else "full segment"
    found = [Span(name, f"{kind}, header", 0, HEADER_BYTES)]
    for placed in records:
        last = newest and placed.batch_offset == records[-1].batch_offset
        found.append(Span(name, f"{kind}, {'the last batch' if last else 'a record'}", placed.offset, placed.end))
    return found


def _pack(path: Path, name: str) -> list[Span]:
    kind = "checkpoint" if path.suffix == ".pack" else "deleted checkpoint"
    size, number = path.stat().st_size, int(path.stem.removeprefix("ckpt-"))
    file = os.open(path, os.O_RDONLY)
    try:
        groups = packs.read_index(file, number).groups
        (index_at,) = struct.unpack("<Q", os.pread(file, 8, size - packs.TRAILER_BYTES))
    finally:
        os.close(file)
    at, found = 24 + struct.unpack("<H", path.read_bytes()[10:12])[0], []
    found.append(Span(name, f"{kind}, header", 0, at))
    for group in groups:
        found.append(Span(name, f"{kind}, group head", at, group.offset))
        at = group.offset + group.stored_bytes
        body = min(group.offset + FRAME_START_BYTES, at)
        found += [Span(name, f"{kind}, frame start", group.offset, body), Span(name, f"{kind}, chunks", body, at)]
    end = size - packs.TRAILER_BYTES
    return [*found, Span(name, f"{kind}, index", index_at, end), Span(name, f"{kind}, trailer", end, size)]


def goes_on(root: Path, sessions: dict[str, int]) -> list[str]:
    """Open, append and save in each session; sentences of those that refuse. Anything else is an exception."""

    async def try_all() -> list[str]:
        refused = []
        memory = Memory(root, lambda: NOW, reserve_bytes=0)
        for session in sessions:
            try:
                opened = await memory.open_session(session, "after")
                news = Record(opened.epoch, opened.last_sequence + 1, NOW, "After", b"went on")
                await memory.append(session, opened.epoch, [news])
                await memory.save(session, opened.epoch, Level.TASK, opened.last_sequence + 1, b"new" * 999, "after")
                await memory.maintain(newest_only(dict.fromkeys(Level, 9)))
            except SelfwareError as error:
                refused.append(f"{session}: {error}")
        await memory.close()
        return refused

    return asyncio.run(try_all())
