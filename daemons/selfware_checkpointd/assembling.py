"""Puts a state together from its chunks, wherever they lie, and believes none of them before its hash fits.

Groups are read, decompressed and checked by two threads, a few ahead of the one that takes them; each is kept until it
was used last. So a state of any size is read with little memory. Owns nothing: packs are read through the catalog,
which must not move or remove one meanwhile (the store sees to it).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from blake3 import blake3

from selfware_checkpointd.catalog import Catalog, Pack
from selfware_checkpointd.errors import CheckpointCorruptError, StorageError
from selfware_checkpointd.manifest import CheckpointInfo, Run, checkpoint_id
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.packs import Group, raw_of
from selfware_common.state.comparing import root_of

READING_THREADS = 2
BATCH_BYTES = 512 * 1024  # of groups that one thread reads at a time: to hand over a small one costs a third of it
AHEAD_BYTES = 10 * 1024 * 1024  # are read before they are taken: two groups of the largest size, one for each thread

KEPT_BYTES = 32 * 1024 * 1024  # of groups that are wanted again later

Key = tuple[int, int]
"""Pack, first chunk of a group."""
Unpacked = tuple[memoryview, list[int], set[int]]
"""A group's bytes, where its chunks begin, and which of the wanted ones are not what their hash says."""
OtherCopy = Callable[[bytes], bytes | None]
"""The chunk with this hash from another place, if there is one."""


@dataclass(slots=True)
class Part:
    """Neighbouring chunks in one group."""

    key: Key
    at: int
    stop: int


@dataclass(slots=True)
class Plan:
    """What to read for a checkpoint."""

    info: CheckpointInfo
    is_rooted: bool  # else its hash is that of the whole state: packs of version 1
    at_rest: bool = False  # nothing from memory
    parts: list[Part] = field(default_factory=list)
    groups: dict[Key, tuple[Pack, Group]] = field(default_factory=dict)
    wanted: dict[Key, list[tuple[int, int]]] = field(default_factory=dict)
    damaged: list[tuple[int, int]] = field(default_factory=list)  # (pack, chunk), found while reading


class Assembler:
    """Reads from one catalog; owns the threads that do it."""

    def __init__(self, catalog: Catalog, reader: PackReader) -> None:
        self._catalog = catalog
        self._reader = reader
        self._threads = ThreadPoolExecutor(READING_THREADS, "read")
        # Each hash lets go of the interpreter for some microseconds: two threads that do it at once wait for each other
        # most of the time. One hashes while the other decompresses.
        self._hashing = threading.Lock()

    def plan(self, info: CheckpointInfo, at_rest: bool = False) -> Plan:
        """Where everything lies; CheckpointCorruptError if some of it is missing, or what is there is not the whole."""
        try:
            runs = self._catalog.runs_of(info.number)
        except ValueError as error:
            raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=str(error)) from error
        plan = Plan(info, self._catalog.packs[info.number].version > 1, at_rest)
        digests: list[bytes] = []
        size = 0
        for run in runs:
            size += self._plan_run(plan, run, digests)
        if size != info.state_bytes or (plan.is_rooted and root_of(digests) != info.state_hash):
            raise _damaged(info, "the whole state does not match its hash")
        return plan

    def pieces(self, plan: Plan, other_copy: OtherCopy) -> Iterator[memoryview]:
        """The state in order, checked. CheckpointCorruptError in the middle if a chunk is not what its hash says and
        there is no other copy; ``plan.damaged`` names those that were not."""
        coming = _batches(plan)
        flying: deque[tuple[int, Future[dict[Key, Unpacked]]]] = deque()
        kept, came = _Kept(plan), set[Key]()
        whole = None if plan.is_rooted else blake3()
        for part in plan.parts:
            while part.key not in came:
                while sum(size for size, _ in flying) < AHEAD_BYTES and (batch := next(coming, None)) is not None:
                    flying.append((batch[0], self._threads.submit(self._read_all, plan, batch[1])))
                batch_of = flying.popleft()[1].result()
                came.update(batch_of)
                kept.put(batch_of)
            unpacked = kept.get(part.key)
            if unpacked is None:
                unpacked = self._read(*plan.groups[part.key], plan.wanted[part.key], plan.at_rest)
                kept.put({part.key: unpacked})
            raw, starts, bad = unpacked
            if bad:  # all of them at once: the next save must build on none, though reading ends at the first
                plan.damaged += [(part.key[0], part.key[1] + number) for number in sorted(bad)]
            kept.used(part.key)
            for piece in _pieces_of(part, raw, starts, bad) if bad else [raw[starts[part.at] : starts[part.stop]]]:
                found = piece if isinstance(piece, memoryview) else self._elsewhere(plan, part.key, piece, other_copy)
                if whole is not None:
                    whole.update(found)
                yield found
        if whole is not None and whole.digest() != plan.info.state_hash:
            raise _damaged(plan.info, "the whole state does not match its hash")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _plan_run(self, plan: Plan, run: Run, digests: list[bytes]) -> int:
        pack = self._catalog.packs.get(run.pack)
        if pack is None:
            problem = f"{checkpoint_id(run.pack)}, which holds {run.count} of its chunks, is missing"
            raise _damaged(plan.info, problem)
        index, end, size = run.first, run.first + run.count, 0
        while index < end:
            group = pack.group_of(index)
            if group is None:
                raise _damaged(plan.info, f"chunk {index} of {checkpoint_id(run.pack)} is missing")
            key, at = (run.pack, group.first), index - group.first
            stop = min(end - group.first, len(group.hashes))
            plan.groups[key] = (pack, group)
            plan.wanted.setdefault(key, []).append((at, stop))
            plan.parts.append(Part(key, at, stop))
            digests += group.hashes[at:stop]
            size += sum(group.lengths[at:stop])
            index = group.first + stop
        return size

    def _read_all(self, plan: Plan, batch: list[Key]) -> dict[Key, Unpacked]:
        return {key: self._read(*plan.groups[key], plan.wanted[key], plan.at_rest) for key in batch}

    def _read(self, pack: Pack, group: Group, wanted: list[tuple[int, int]], at_rest: bool) -> Unpacked:
        """From here; from its copy in the cold store if what is here is not right."""
        stub = pack.stub  # upkeep may drop it meanwhile
        try:
            unpacked = _unpacked(self._reader.frame(pack, group, at_rest), group, wanted, self._hashing)
        except FileNotFoundError:
            unpacked = _unpacked(b"", group, wanted, self._hashing)
        except OSError as error:  # that may pass: it says nothing about the chunks
            if pack.is_here and stub is not None:
                with suppress(FileNotFoundError):
                    return _unpacked(self._reader.cold_frame(stub, group), group, wanted, self._hashing)
            raise StorageError(what="read a checkpoint", path=pack.path, reason=error.strerror or str(error)) from error
        if unpacked[2] and stub is not None:
            self._reader.forget(stub)
        if unpacked[2] and stub is not None and pack.is_here:
            with suppress(FileNotFoundError):
                return _unpacked(self._reader.cold_frame(stub, group), group, wanted, self._hashing)
        return unpacked

    def _elsewhere(self, plan: Plan, key: Key, at: int, other_copy: OtherCopy) -> memoryview:
        pack, group = plan.groups[key]
        chunk = other_copy(group.hashes[at])
        if chunk is None:
            where = checkpoint_id(key[0]) if pack.is_here else f"{pack.path.name} in the cold store"
            problem = f"chunk {group.hashes[at].hex()[:16]} in {where} does not match its hash"
            raise _damaged(plan.info, problem)
        return memoryview(chunk)


class _Kept:
    """Groups that are wanted again, as many as fit. Of more than that those go that are wanted last, and are read once
    more: what was written in one step lies in one group, and stands all over the state."""

    def __init__(self, plan: Plan) -> None:
        self._uses: dict[Key, deque[int]] = {}  # by which parts, in order
        for number, part in enumerate(plan.parts):
            self._uses.setdefault(part.key, deque()).append(number)
        self._groups: dict[Key, Unpacked] = {}
        self._bytes = 0

    def put(self, groups: dict[Key, Unpacked]) -> None:
        """They were read; the first of them is wanted now."""
        self._groups |= groups
        self._bytes += sum(len(raw) for raw, _, _ in groups.values())
        while self._bytes > KEPT_BYTES and len(self._groups) > 1:
            self._drop(max(self._groups, key=lambda key: self._uses[key][0]))

    def get(self, key: Key) -> Unpacked | None:
        """None if it had to go."""
        return self._groups.get(key)

    def used(self, key: Key) -> None:
        """By the next of the parts that want it."""
        self._uses[key].popleft()
        if not self._uses[key]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._bytes -= len(self._groups.pop(key)[0])


def _batches(plan: Plan) -> Iterator[tuple[int, list[Key]]]:
    """All groups in the order in which they are used first, with the bytes of each batch."""
    batch, size = list[Key](), 0
    for key, (_, group) in plan.groups.items():
        batch.append(key)
        size += sum(group.lengths)
        if size >= BATCH_BYTES:
            yield size, batch
            batch, size = [], 0
    if batch:
        yield size, batch


def _unpacked(stored: bytes, group: Group, wanted: list[tuple[int, int]], hashing: threading.Lock) -> Unpacked:
    starts = [0]
    for length in group.lengths:
        starts.append(starts[-1] + length)
    chunks = {number for at, stop in wanted for number in range(at, stop)}
    unpacked = raw_of(group, stored)
    if unpacked is None:
        return memoryview(b""), starts, set(range(len(group.hashes)))
    raw = memoryview(unpacked)
    with hashing:
        bad = {n for n in chunks if blake3(raw[starts[n] : starts[n + 1]]).digest() != group.hashes[n]}
    return raw, starts, bad


def _pieces_of(part: Part, raw: memoryview, starts: list[int], bad: set[int]) -> Iterator[memoryview | int]:
    """Chunk by chunk: its bytes, or the number of one that is bad."""
    for number in range(part.at, part.stop):
        yield number if number in bad else raw[starts[number] : starts[number + 1]]


def _damaged(info: CheckpointInfo, problem: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)
