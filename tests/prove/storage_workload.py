"""A seeded day in the life of checkpointd's memory, and what its writers were promised at every moment of it.

``plan`` is pure: the same seed gives the same steps. ``Runner`` takes them, in this process, over the public face of
``Memory``; it says when it begins a step and when that was acknowledged. ``Promises`` hears the same marks (from a
record, or through a pipe from a process that was killed) and knows what must be there and what may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from selfware_checkpointd import assembling, journal, packing
from selfware_checkpointd.coldstore import DirectoryStore
from selfware_checkpointd.errors import SequenceGapError, StaleWriterError
from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.retention import newest_only
from selfware_checkpointd.room import NO_LIMIT
from selfware_checkpointd.segment import Record
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.tiering import ColdPolicy
from selfware_common.errors import SelfwareError
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import root_of
from tests.prove.keys import vault

SESSIONS = ("alpha", "beta")
SEGMENT_BYTES = 1500
NOW = 1_700_000_000_000_000_000
STEP_SECONDS = 20.0
MOST_TRIES = 6
RESERVE_BYTES = 8192
NO_OLD_EVENTS = Policy(retention_days=0, max_size_bytes=NO_LIMIT)

SavedKey = tuple[str, int, int, bytes]  # session, level, sequence, state hash


@dataclass(frozen=True)
class Step:
    """One thing that a writer asks for."""

    kind: str  # open, append, save, maintain, reopen, stale
    session: str = ""
    batches: tuple[tuple[Record, ...], ...] = ()  # of append: each submitted by a coroutine of its own
    level: Level = Level.MICRO
    sequence: int = 0
    state: bytes = b""
    label: str = ""
    keep: Mapping[Level, int] = field(default_factory=dict)  # empty: keep all checkpoints, let old events go

    @property
    def events(self) -> list[Record]:
        """Everything that this step appends."""
        return [record for batch in self.batches for record in batch]

    @property
    def key(self) -> SavedKey:
        """What tells this save from others."""
        digests = [blake3(chunk).digest() for chunk in Chunker().cut(memoryview(self.state))]
        return (self.session, int(self.level), self.sequence, root_of(digests))


def key_of(info: CheckpointInfo) -> SavedKey:
    """The same for a checkpoint that was found."""
    return (info.session_id, int(info.level), info.sequence, info.state_hash)


def use_small_segments() -> None:
    """Journals that begin a new segment after a few events, so that a short run has many."""
    start = journal.Journal.__init__
    defaults = start.__defaults__ or ()
    assert inspect.signature(start).parameters["segment_bytes"].default == defaults[0] == journal.SEGMENT_BYTES
    start.__defaults__ = (SEGMENT_BYTES, *defaults[1:])


_tiers = {"cold": False}


def use_cold_tier() -> None:
    """Every pack that may moves to a directory beside the store, which counts as much as the store itself."""
    _tiers["cold"] = True


def opened(root: Path) -> Memory:
    """The product over these files."""
    cold = DirectoryStore(root / "cold") if _tiers["cold"] else None
    if cold is not None:
        cold.place = "the cold directory"  # wherever these files are looked at
    memory = Memory(root, lambda: NOW, reserve_bytes=RESERVE_BYTES, cold=cold, vault=vault())
    memory.cold_policy = ColdPolicy(after_seconds=0, keep_local_bytes=0)
    return memory


class _Late(Future[Any]):
    """Done when somebody waits for it, and not before."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call: Callable[[], Any] | None = call

    def result(self, timeout: float | None = None) -> Any:
        call, self._call = self._call, None
        if call is not None:
            try:
                self.set_result(call())
            except Exception as error:  # noqa: BLE001 - as an executor does
                self.set_exception(error)
        return super().result(timeout)


class _LateThreads(Executor):
    """The same order of events in every run, and the worst one: what another thread was to do comes last."""

    def __init__(self, *_: Any) -> None:
        self._late: list[_Late] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        self._late.append(_Late(lambda: call(*args, **named)))
        return self._late[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for late in self._late:
            with contextlib.suppress(Exception):
                late.result()


def use_late_threads() -> None:
    """Work of the store's own threads is done where it is waited for."""
    packing.ThreadPoolExecutor = _LateThreads  # type: ignore[misc, assignment]
    assembling.Helping.if_free = lambda *_: contextlib.nullcontext()  # type: ignore[method-assign, assignment]


def plan(seed: int, length: int = 32) -> list[Step]:
    """So many steps."""
    chance = random.Random(seed)
    last = dict.fromkeys(SESSIONS, 0)
    states = {name: chance.randbytes(chance.choice([0, 900, 30_000, 60_000])) for name in SESSIONS}
    steps = [Step("open", SESSIONS[0]), Step("open", SESSIONS[1])]
    kinds = ["append"] * 9 + ["save"] * 7 + ["maintain"] * 3 + ["reopen"] * 2 + ["open", "stale"] + ["trim"] * 4
    for number in range(length):
        session = chance.choice(SESSIONS)
        kind = chance.choice(kinds)
        if kind == "append":
            batches = tuple(
                tuple(_event(chance, last, session) for _ in range(chance.randint(1, 3)))
                for _ in range(chance.choice([1, 1, 2, 4]))
            )
            steps.append(Step("append", session, batches))
        elif kind == "save":
            states[session] = _edited(states[session], chance)
            level, label = chance.choice(list(Level)), f"step {number}"
            steps.append(Step("save", session, (), level, chance.randint(0, last[session]), states[session], label))
        elif kind == "trim":
            held = last[session]
            steps += [
                Step("save", session, (), level, held, states[session], f"step {number}")
                for level in (Level.TASK, Level.SESSION)
            ]
            steps.append(Step("maintain"))
        elif kind == "maintain":
            steps.append(Step("maintain", keep=dict.fromkeys(Level, chance.choice([1, 1, 2]))))
        else:
            steps.append(Step(kind, session))
    return steps


def _event(chance: random.Random, last: dict[str, int], session: str) -> Record:
    last[session] += 1
    payload = chance.randbytes(chance.choice([0, 20, 300, 1200]))
    return Record(0, last[session], NOW - 10**9 + last[session], f"Kind{chance.randint(1, 3)}", payload, "cd" * 16)


def _edited(state: bytes, chance: random.Random) -> bytes:
    """Grown, cut, changed in the middle or new."""
    new = chance.randbytes(chance.choice([50, 3000, 20_000]))
    at = chance.randint(0, len(state))
    kind = chance.randint(0, 9)
    if kind == 0:
        return new
    if kind == 1:
        return state[:at]
    return state + new if kind < 7 else state[:at] + new + state[at + len(new) :]


@dataclass
class Promises:
    """What was acknowledged and what was only begun."""

    steps: list[Step]
    begun: int | None = None
    next_step: int = 0
    events: dict[str, list[Record]] = field(default_factory=lambda: {name: [] for name in SESSIONS})
    saved: dict[SavedKey, bytes] = field(default_factory=dict)  # oldest first
    optional: dict[SavedKey, bytes] = field(default_factory=dict)  # may be gone: retention could take them
    epochs: dict[str, int] = field(default_factory=dict)
    is_trimmed: bool = False  # old events that checkpoints hold may be gone

    def hear(self, kind: str, number: int, value: Any = None) -> None:
        """A mark of the runner."""
        step = self.steps[number]
        if kind == "begin":
            self.begun = number
            if step.kind == "maintain":
                self.is_trimmed |= not step.keep
                self._let_go(step.keep)
        elif kind == "epoch":
            self.epochs[step.session] = value
        else:
            self.begun, self.next_step = None, number + 1
            if step.kind == "append":
                self.events[step.session] += step.events
            elif step.kind == "save":
                self.optional.pop(step.key, None)
                self.saved[step.key] = step.state

    def possible_events(self, session: str) -> list[Record]:
        """Events beyond the acknowledged ones: any first part of them may be there."""
        step = self.steps[self.begun] if self.begun is not None else None
        return step.events if step and step.kind == "append" and step.session == session else []

    def possible_saves(self) -> dict[SavedKey, bytes]:
        """Checkpoints that may be there or not."""
        step = self.steps[self.begun] if self.begun is not None else None
        return {**self.optional, **({step.key: step.state} if step and step.kind == "save" else {})}

    def _let_go(self, keep: Mapping[Level, int]) -> None:
        seen: dict[tuple[str, int], int] = {}
        if not keep:
            return
        for key in reversed(list(self.saved)):
            seen[key[:2]] = seen.get(key[:2], 0) + 1
            if seen[key[:2]] > keep[Level(key[1])]:
                self.optional[key] = self.saved.pop(key)


Mark = Callable[[str, int, Any], None]


class Runner:
    """Takes the steps, one after the other; after a SelfwareError the same step again, as a writer does."""

    def __init__(self, root: Path, steps: list[Step], mark: Mark, heal: Callable[[SelfwareError], None] | None) -> None:
        """Without heal the first error ends the run."""
        self._root, self._steps, self._mark, self._heal = root, steps, mark, heal
        self._memory: Memory | None = None
        self._epochs: dict[str, int] = {}

    async def run(self, start: int = 0) -> None:
        """From this step to the end."""
        for number in range(start, len(self._steps)):
            self._mark("begin", number, None)
            for tried in range(MOST_TRIES):
                try:
                    await asyncio.wait_for(self._take(number, self._steps[number]), STEP_SECONDS)
                except SelfwareError as error:
                    if self._heal is None or tried == MOST_TRIES - 1:
                        raise
                    self._heal(error)
                else:
                    break
            self._mark("ack", number, None)
        if self._memory is not None:
            await self._memory.close()

    async def _take(self, number: int, step: Step) -> None:
        if step.kind == "reopen" and self._memory is not None:
            memory, self._memory = self._memory, None
            await memory.close()
        if self._memory is None:
            self._memory = opened(self._root)
        if step.kind == "open":
            self._epochs.pop(step.session, None)
        elif step.kind == "maintain":
            await self._memory.maintain(newest_only(step.keep) if step.keep else NO_OLD_EVENTS)
        if not step.session or step.kind == "reopen":
            return
        epoch = await self._epoch(number, step.session)
        if step.kind == "append":
            memory = self._memory
            await memory.append(step.session, epoch, [])  # opens the journal: threads that do so overtake one another
            batches = [[record._replace(epoch=epoch) for record in batch] for batch in step.batches]
            done = [memory.append(step.session, epoch, batch) for batch in batches]
            outcomes = await asyncio.gather(*done, return_exceptions=True)
            errors = [one for one in outcomes if isinstance(one, BaseException)]
            for one in sorted(errors, key=lambda error: isinstance(error, SequenceGapError)):
                raise one  # that one is missing makes gaps for the others: tell the cause
        elif step.kind == "save":
            await self._memory.save(step.session, epoch, step.level, step.sequence, step.state, step.label)
        elif step.kind == "stale":
            await self._be_stale(step.session, epoch - 1)

    async def _epoch(self, number: int, session: str) -> int:
        assert self._memory is not None
        if session not in self._epochs:
            opened = await self._memory.open_session(session, f"writer {number}")
            self._epochs[session] = opened.epoch
            self._mark("epoch", number, opened.epoch)
        return self._epochs[session]

    async def _be_stale(self, session: str, epoch: int) -> None:
        assert self._memory is not None
        for attempt in (
            self._memory.append(session, epoch, [Record(epoch, 1, NOW, "Stale", b"stale")]),
            self._memory.save(session, epoch, Level.MICRO, 1, b"stale", "stale"),
        ):
            try:
                await attempt
            except StaleWriterError:
                continue
            raise AssertionError(f"a stale writer of {session} was not refused")
