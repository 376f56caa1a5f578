"""Proof: a week of work stays within its limit, costs the same at its end as at its beginning, and nothing rots.

Seven days in one run: the clock is simulated, everything else is the product and real files. An agent at work appends
events, and saves what it knows every half minute (micro), every ten minutes (task), five minutes (session: a
conversation that grows by 0.5 to 2 % a step, is edited, and compacted when it is full) and quarter of an hour (system:
the session with its workspace tree). Upkeep runs once a minute, the daemon is restarted once a day, one checkpoint a
day is tagged. Twice, side by side: with a limit that the week would exceed by far, and with one that it does not reach.

After every save and every upkeep everything below the root is counted, in bytes and in blocks. At the end each
surviving checkpoint is restored and compared with the BLAKE3 that was recorded when it was saved.

A save costs what changed and one look at the rest, and states grow: so the last hours are also saved into a twin, a
store that begins with them, save by save in turn. Equal states, equal load of the machine: what differs is the age, and
the median over the ratios of such pairs must not be above 1.2.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from selfware_checkpointd.errors import UnknownBaseError
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.segment import Record
from selfware_checkpointd.store import Subject
from selfware_checkpointd.thinning import Policy
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Comparer, places
from selfware_common.trees import Rebuilding, TreeIndex, write_tree_again
from tests.bench.workload import Session, corpus
from tests.prove.common import Verdict, arguments, report, say

ROOT = Path(__file__).resolve().parent.parent.parent
SESSION = "week"
HOURS = 168
TICKS_PER_HOUR = 120
EVERY_TICKS = {Level.MICRO: 1, Level.TASK: 20, Level.SESSION: 10, Level.SYSTEM: 30}
UPKEEP_TICKS = 2
COMPARED_HOURS = 8  # at the end, the twin beside it
MOST_RATIO = 1.2
START_NANOS = 1_790_000_000_000_000_000
TICK_NANOS = 30 * 1_000_000_000
EVENTS_PER_TICK = 3
LIMITS = {"binding": 192 * 2**20, "roomy": 10 * 2**30}


@dataclass(frozen=True)
class Sizes:
    """Of the states, in bytes: where they begin, and where they are compacted."""

    session: tuple[int, int] = (8_000_000, 32_000_000)
    task: tuple[int, int] = (1_000_000, 10_000_000)
    micro: tuple[int, int] = (10_000, 100_000)


@dataclass
class Figures:
    """What a run came to; a line of output."""

    proof: str
    part: str
    hours: int
    limit_bytes: int
    saves: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    peak_blocks_bytes: int = 0
    end_bytes: int = 0
    above_limit: int = 0
    survivors: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    restored_bytes: int = 0
    first_hour_ms: dict[str, float] = field(default_factory=dict)
    last_hour_ms: dict[str, float] = field(default_factory=dict)
    old_to_new: dict[str, float] = field(default_factory=dict)
    upkeep_ms: list[float] = field(default_factory=list)
    journal_bytes: int = 0
    events: int = 0
    events_let_go: int = 0
    session_bytes: list[int] = field(default_factory=list)
    wall_seconds: float = 0.0


class Work:
    """The agent: its states, and what happens to them. The same for the same seed."""

    def __init__(self, base: Path, seed: int, sizes: Sizes) -> None:
        self._chance = random.Random(seed)
        self._sizes = sizes
        self._session, self._task = Session(sizes.session[0], seed), Session(sizes.task[0], seed + 1)
        self._micro = b""
        self._workspace = base / "workspace"
        for name in ("docs", "selfware_common", "protos", "daemons"):
            shutil.copytree(ROOT / name, self._workspace / name, ignore=shutil.ignore_patterns("__pycache__"))
        self._files = sorted(path for path in self._workspace.rglob("*") if path.is_file())
        self._stream, self._known = b"", TreeIndex()

    def events(self, first: int, epoch: int, now: int) -> list[Record]:
        """What happened in a tick."""
        return [
            Record(epoch, first + n, now, "StepDone", self._text(self._chance.randrange(300, 4000)), "ab" * 16)
            for n in range(EVENTS_PER_TICK)
        ]

    def state(self, level: Level) -> bytes:
        """The next one of a level."""
        return {
            Level.MICRO: self._micro_state,
            Level.TASK: lambda: self._grown(self._task, self._sizes.task[1], 0.9),
            Level.SESSION: lambda: self._grown(self._session, self._sizes.session[1], 0.4),
            Level.SYSTEM: self._system_state,
        }[level]()

    def _micro_state(self) -> bytes:
        least, most = self._sizes.micro
        full = len(self._micro) > self._chance.randrange(least, most)
        self._micro = (b"" if full else self._micro) + self._text(self._chance.randrange(least // 4, least))
        head = {"position": len(self._micro), "tokens": self._chance.randrange(1000), "state": "streaming"}
        return json.dumps(head).encode() + self._micro.ljust(least, b" ")

    def _grown(self, session: Session, most: int, share: float) -> bytes:
        session.step()
        state = session.encode()
        if len(state) > most:
            session.compact(share)
        return state

    def _system_state(self) -> bytes:
        for _ in range(self._chance.randrange(1, 12)):
            self._edit()
        output = Rebuilding(self._stream)
        self._known = write_tree_again(self._workspace, output, self._known).index
        self._stream = bytes(output.stream)
        state = self._session.encode()
        return struct.pack("<Q", len(state)) + state + self._stream

    def _edit(self) -> None:
        path = self._chance.choice(self._files)
        kind = self._chance.random()
        if kind < 0.2:
            path.unlink(missing_ok=True)
        elif kind < 0.4 or not path.exists():
            path.write_bytes(self._text(self._chance.randrange(100, 60_000)))
        else:
            data = bytearray(path.read_bytes())
            at = self._chance.randrange(len(data) + 1)
            data[at:at] = self._text(self._chance.randrange(20, 2000))
            path.write_bytes(data)

    def _text(self, size: int) -> bytes:
        prose = corpus().prose
        at = self._chance.randrange(len(prose) - size)
        return b"%016x " % self._chance.getrandbits(64) + prose[at : at + size].encode()


class Keeper:
    """One store and its client: saves as the agent does, and looks after every step."""

    def __init__(self, root: Path, clock: Callable[[], int], policy: Policy) -> None:
        self.root, self._clock, self._policy = root, clock, policy
        self.memory = Memory(root, clock, policy=policy)
        self.last = 0
        self.peak = self.peak_blocks = self.above = 0
        self.seconds: dict[Level, list[float]] = {level: [] for level in Level}
        self._comparers = {level: Comparer(Chunker()) for level in Level}
        self._bases = dict.fromkeys(Level, "")
        self.epoch = 0

    async def open(self) -> None:
        """Become the writer."""
        self.epoch = (await self.memory.open_session(SESSION, "week")).epoch

    async def append(self, events: list[Record]) -> None:
        """Durable events."""
        self.last = await self.memory.append(SESSION, self.epoch, events)

    def save(self, level: Level, state: bytes) -> int:
        """The number of the checkpoint; what it took is noted."""
        begun = time.perf_counter()
        cut, spans = self._comparers[level].cut(state)
        view = memoryview(state)
        new = [n for first, count in places(spans) for n in range(first, first + count)]
        fresh = [view[cut.starts[n] : cut.starts[n + 1]] for n in new]
        subject, size = Subject(SESSION, level, self.last, "", 0), sum(map(len, fresh))
        try:
            info = self.memory.save_change(subject, self.epoch, self._bases[level], spans, fresh, size, cut.root())
        except UnknownBaseError:
            raise AssertionError("the newest of a level is gone") from None
        self.seconds[level].append(time.perf_counter() - begun)
        self._comparers[level].release()
        self._bases[level] = info.checkpoint_id
        self.look()
        return info.number

    async def upkeep(self) -> None:
        """A minute has passed."""
        await self.memory.maintain(self._policy)
        self.look()

    async def restart(self) -> None:
        """End, and begin again on the same files."""
        await self.memory.close()
        self.memory = Memory(self.root, self._clock, policy=self._policy)
        await self.open()

    def look(self) -> None:
        """Count everything below the root."""
        size, blocks = disk(self.root)
        self.peak, self.peak_blocks = max(self.peak, size), max(self.peak_blocks, blocks)
        self.above += max(size, blocks) > self._policy.max_size_bytes


def disk(root: Path) -> tuple[int, int]:
    """What all files take, in bytes and in whole blocks."""
    size = blocks = 0
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found = entry.stat(follow_symlinks=False)
                    size, blocks = size + found.st_size, blocks + 512 * found.st_blocks
    return size, blocks


class Week:
    """One run."""

    def __init__(self, base: Path, part: str, hours: int, limit_bytes: int, seed: int, sizes: Sizes) -> None:
        self.figures = Figures("week", part, hours, limit_bytes)
        self._base, self._now = base, START_NANOS
        policy = Policy(7, limit_bytes, dict.fromkeys(Level, 20))
        self._work = Work(base, seed, sizes)
        self._old = Keeper(base / "store", lambda: self._now, policy)
        self._new: Keeper | None = None
        self._policy = policy
        self._recorded: dict[int, bytes] = {}
        self._tags: dict[str, int] = {}

    async def run(self) -> Figures:
        """All of it."""
        begun, figures = time.monotonic(), self.figures
        await self._old.open()
        ticks = figures.hours * TICKS_PER_HOUR
        twin_at = max(TICKS_PER_HOUR, ticks - COMPARED_HOURS * TICKS_PER_HOUR)
        for tick in range(1, ticks + 1):
            self._now = START_NANOS + tick * TICK_NANOS
            await self._tick(tick)
            if tick == TICKS_PER_HOUR:
                figures.first_hour_ms = _medians(self._old.seconds, 0)
            if tick == twin_at:
                self._new = Keeper(self._base / "twin", lambda: self._now, self._policy)
                await self._new.open()
            if tick % (24 * TICKS_PER_HOUR) == 0:
                await self._old.restart()
                self._say(tick // TICKS_PER_HOUR, time.monotonic() - begun)
        await self._finish()
        figures.wall_seconds = round(time.monotonic() - begun, 1)
        return figures

    async def _tick(self, tick: int) -> None:
        events = self._work.events(self._old.last + 1, self._old.epoch, self._now)
        await self._old.append(events)
        for level, every in EVERY_TICKS.items():
            if tick % every:
                continue
            state = self._work.state(level)
            if self._new is not None:
                self._new.last = self._old.last
            pair = [self._old] if self._new is None else [self._old, self._new]
            for keeper in pair if tick % (2 * every) else reversed(pair):
                number = keeper.save(level, state)
                if keeper is self._old:
                    self._recorded[number] = blake3(state).digest()
            if level is Level.SESSION:
                self.figures.session_bytes.append(len(state))
        if tick % UPKEEP_TICKS == 0:
            before = time.perf_counter()
            await self._old.upkeep()
            self.figures.upkeep_ms.append(1000 * (time.perf_counter() - before))
            if self._new is not None:
                await self._new.upkeep()
        if tick % (24 * TICKS_PER_HOUR) == 12 * TICKS_PER_HOUR:
            newest = self._old.memory.store.latest(SESSION)
            self._tags[f"day-{tick}"] = self._old.memory.store.tag(newest.checkpoint_id, f"day-{tick}").number

    async def _finish(self) -> None:
        """Restore everything that is left, from the files alone."""
        figures, old = self.figures, self._old
        assert self._new is not None
        hour = {level: TICKS_PER_HOUR // every for level, every in EVERY_TICKS.items()}
        figures.last_hour_ms = {name: _median(old.seconds[Level[name]][-hour[Level[name]] :]) for name in _names()}
        for level in Level:
            fresh = self._new.seconds[level][1:]  # the first one holds everything
            aged = old.seconds[level][-len(fresh) :] if fresh else []
            if fresh:
                ratios = [one / other for one, other in zip(aged, fresh, strict=True)]
                figures.old_to_new[level.name] = round(statistics.median(ratios), 3)
        figures.saves = {level.name: len(old.seconds[level]) for level in Level}
        figures.peak_bytes, figures.peak_blocks_bytes, figures.above_limit = old.peak, old.peak_blocks, old.above
        figures.end_bytes = disk(old.root)[0]
        upkeep = figures.upkeep_ms
        figures.upkeep_ms = [round(value, 1) for value in (_mid(upkeep[:60]), _mid(upkeep[-60:]), max(upkeep))]
        sizes = figures.session_bytes
        figures.session_bytes = [sizes[0], max(sizes), sizes[-1]]
        await old.memory.close()
        await self._new.memory.close()
        old.memory = Memory(old.root, lambda: self._now, policy=self._policy)
        figures.survivors = dict.fromkeys(_names(), 0)
        for info in old.memory.store.checkpoints():
            figures.survivors[info.level.name] += 1
            digest = blake3()
            with old.memory.store.reading(info.checkpoint_id) as (_, pieces):
                for piece in pieces:
                    digest.update(piece)
            figures.wrong += digest.digest() != self._recorded[info.number]
            figures.restored_bytes += info.state_bytes
        for name, number in self._tags.items():
            figures.wrong += old.memory.store.find(name).number != number
        await self._journal()
        await old.memory.close()

    async def _journal(self) -> None:
        """What is left of the events is whole, and recovery ends where the work ended."""
        figures, memory = self.figures, self._old.memory
        found = await memory.recover(SESSION)
        figures.wrong += found.last_sequence != self._old.last or bool(found.skipped)
        journal = memory.journal(SESSION)
        figures.events, figures.journal_bytes = self._old.last, journal.size_bytes
        figures.events_let_go = journal.floor
        left = [record.sequence for record in journal.read(journal.floor)]
        figures.wrong += left != list(range(journal.floor + 1, self._old.last + 1))

    def _say(self, hours: int, seconds: float) -> None:
        old = self._old
        alive = len(old.memory.store.checkpoints())
        say(f"{self.figures.part}: hour {hours}, {disk(old.root)[0] >> 20} MiB, {alive} checkpoints, {seconds:.0f} s")


def _names() -> list[str]:
    return [level.name for level in Level]


def _mid(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def _median(seconds: list[float]) -> float:
    return round(1000 * _mid(seconds), 3)


def _medians(seconds: dict[Level, list[float]], start: int) -> dict[str, float]:
    return {level.name: _median(found[start:]) for level, found in seconds.items()}


def prove(
    rounds: int,
    seed: int,
    sizes: Sizes | None = None,
    limits: dict[str, int] | None = None,
    most_ratio: float = MOST_RATIO,
) -> Verdict:
    """`rounds` counts hours. `lost` counts checkpoints and events that did not come back as they were, `faults` the
    moments at which there was more on the disk than the limit."""
    parts = limits or LIMITS
    with ProcessPoolExecutor(len(parts), multiprocessing.get_context("spawn")) as pool:
        coming = [pool.submit(run, part, rounds, limit, seed, sizes or Sizes()) for part, limit in parts.items()]
        found = [one.result() for one in coming]
    for figures in found:
        print(json.dumps(vars(figures)), flush=True)
    lost, above = sum(one.wrong for one in found), sum(one.above_limit for one in found)
    is_flat = all(ratio <= most_ratio for one in found for ratio in one.old_to_new.values())
    return Verdict("week", seed, rounds, above, lost, 0, 0, ok=is_flat and not lost and not above)


def run(part: str, hours: int, limit_bytes: int, seed: int, sizes: Sizes) -> Figures:
    """One part, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="selfware-week-") as base:
        return asyncio.run(Week(Path(base), part, hours, limit_bytes, seed, sizes).run())


if __name__ == "__main__":
    given = arguments("week", rounds=HOURS)
    sys.exit(report(prove(given.rounds, given.seed)))
