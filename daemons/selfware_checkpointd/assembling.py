"""Puts a state together from its chunks, wherever they lie, and believes none of them before its hash fits.

Groups are read, decompressed and checked by two threads, a few ahead of the one that takes them; what is wanted again
is kept as far as it fits. So a state of any size is read with little memory. Owns nothing: packs are read through the
catalog, which must not move or remove one meanwhile (the store sees to it).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from blake3 import blake3

from selfware_checkpointd.catalog import Catalog, Pack
from selfware_checkpointd.errors import CheckpointCorruptError, StorageError
from selfware_checkpointd.manifest import CheckpointInfo, Run, checkpoint_id
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.packs import Group, raw_of
from selfware_common.errors import SelfwareError
from selfware_common.state.comparing import root_of

READING_THREADS = 2
BATCH_BYTES = 512 * 1024  # of groups that one thread reads at a time: to hand over a small one costs a third of it
AHEAD_BYTES = 18 * 1024 * 1024  # are read before they are taken: three groups of the largest size
KEPT_BYTES = 64 * 1024 * 1024  # of groups that are wanted again later

Key = tuple[int, int]
"""Pack, first chunk of a group."""
Unpacked = tuple[memoryview, list[int], set[int]]
"""A group's bytes, where its chunks begin, and which of the wanted ones are not what their hash says."""
Groups = dict[Key, Unpacked]
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
    is_over: bool = False  # nobody reads any more: whoever reads something else must not wait for it


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
        flying: deque[tuple[int, Future[tuple[Groups, SelfwareError | None]]]] = deque()
        kept, came = _Kept(plan.parts), set[Key]()
        whole = None if plan.is_rooted else blake3()
        trouble: SelfwareError | None = None
        for number, part in enumerate(plan.parts):
            while part.key not in came:
                if trouble is not None:  # now, and not before: damage in what stands before it is told first
                    raise trouble
                while sum(size for size, _ in flying) < AHEAD_BYTES and (batch := next(coming, None)) is not None:
                    flying.append((batch[0], self._threads.submit(self._read_all, plan, batch[1])))
                groups, trouble = flying.popleft()[1].result()
                came.update(groups)
                kept.put(groups)
                plan.damaged += _damage_in(groups)
            found = kept.take(number)
            if found is None:
                groups = {part.key: self._read(*plan.groups[part.key], kept.left(part.key), plan.at_rest)}
                kept.put(groups)
                plan.damaged += _damage_in(groups)
                found = kept.take(number)
                assert found is not None
            for piece in self._checked(plan, part, found, other_copy):
                if whole is not None:
                    whole.update(piece)
                yield piece
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

    def _read_all(self, plan: Plan, batch: list[Key]) -> tuple[Groups, SelfwareError | None]:
        """As far as they can be read, and why no further."""
        groups: Groups = {}
        for key in batch:
            if plan.is_over:
                break
            try:
                groups[key] = self._read(*plan.groups[key], plan.wanted[key], plan.at_rest)
            except SelfwareError as error:
                return groups, error
        return groups, None

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

    def _checked(self, plan: Plan, part: Part, found: Unpacked, other_copy: OtherCopy) -> Iterator[memoryview]:
        raw, starts, bad = found
        if not bad:
            yield raw[: starts[-1]]
            return
        for number, (at, end) in enumerate(pairwise(starts)):
            yield self._elsewhere(plan, part.key, part.at + number, other_copy) if number in bad else raw[at:end]

    def _elsewhere(self, plan: Plan, key: Key, at: int, other_copy: OtherCopy) -> memoryview:
        pack, group = plan.groups[key]
        chunk = other_copy(group.hashes[at])
        if chunk is None:
            where = checkpoint_id(key[0]) if pack.is_here else f"{pack.path.name} in the cold store"
            problem = f"chunk {group.hashes[at].hex()[:16]} in {where} does not match its hash"
            raise _damaged(plan.info, problem)
        return memoryview(chunk)


class _Kept:
    """What was read and is wanted later: whole groups, if all fit. Else, of each, only what is wanted of it, and of
    that only what is wanted soonest: the rest is read once more. What was written in one step lies in one group and
    stands all over the state, so whole groups would fill the memory with what is wanted last, or never."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._left: dict[Key, deque[int]] = {}  # the parts that are still wanted, by number
        for number, part in enumerate(parts):
            self._left.setdefault(part.key, deque()).append(number)
        self._groups: Groups = {}
        self._pieces: dict[int, Unpacked] = {}  # by part
        self._bytes = 0

    def put(self, groups: Groups) -> None:
        """They were read; the first of them is wanted now."""
        self._groups |= groups
        self._bytes += sum(len(raw) for raw, _, _ in groups.values())
        if self._bytes > KEPT_BYTES:
            self._shrink(next(iter(groups)))

    def take(self, number: int) -> Unpacked | None:
        """What this part needs, once; None if it had to go."""
        part = self._parts[number]
        group = self._groups.get(part.key)
        found = self._pieces.pop(number, None) if group is None else _piece_of(part, group)
        if found is None:
            return None
        self._left[part.key].popleft()
        if group is None:
            self._bytes -= len(found[0])
        elif not self._left[part.key]:
            self._bytes -= len(self._groups.pop(part.key)[0])
        return found

    def left(self, key: Key) -> list[tuple[int, int]]:
        """Which chunks of a group are still wanted."""
        return [(self._parts[number].at, self._parts[number].stop) for number in self._left[key]]

    def _shrink(self, now: Key) -> None:
        found = dict(self._pieces)
        for key in [key for key in self._groups if key != now]:
            group = self._groups.pop(key)
            found |= {number: _piece_of(self._parts[number], group) for number in self._left[key]}
        kept, self._pieces = self._pieces, {}
        self._bytes = sum(len(raw) for raw, _, _ in self._groups.values())
        for number in sorted(found):
            raw, starts, bad = found[number]
            if self._bytes + len(raw) > KEPT_BYTES:
                break
            self._pieces[number] = kept.get(number) or (memoryview(bytes(raw)), starts, bad)
            self._bytes += len(raw)


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


def _piece_of(part: Part, group: Unpacked) -> Unpacked:
    """The same of a part of it."""
    raw, starts, bad = group
    begin, end = starts[part.at], starts[part.stop]
    ends = [start - begin for start in starts[part.at : part.stop + 1]]
    return raw[begin:end], ends, {number - part.at for number in bad if part.at <= number < part.stop}


def _damage_in(groups: Groups) -> list[tuple[int, int]]:
    """All of it at once: the next save must build on none, though reading ends at the first."""
    return [(pack, first + number) for (pack, first), (_, _, bad) in groups.items() for number in sorted(bad)]


def _damaged(info: CheckpointInfo, problem: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)
