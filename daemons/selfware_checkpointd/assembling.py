"""Puts a state together from its chunks, wherever they lie, and believes none of them before its hash fits.

Mostly into something where each piece may be put at its place, as a file: then each group is read, decompressed and
checked once, and everything of it put where it belongs. Two threads take one group after another: the caller, and a
helper as far as it has time. Or in order, for whoever can only take it so. Either way a state of any size is read with
little memory.

Packs are read through the catalog, which must not move or remove one meanwhile (the store sees to it).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from itertools import pairwise

from blake3 import blake3

from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.kept import Kept
from selfware_checkpointd.manifest import checkpoint_id
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.plans import Key, Part, Plan, damaged
from selfware_checkpointd.unpacking import Desk, Unpacked, Unpacker, piece_of
from selfware_common.errors import SelfwareError

OtherCopy = Callable[[bytes], bytes | None]
"""The chunk with this hash from another place, if there is one."""
Put = Callable[[int, memoryview], None]
"""Takes what belongs at this byte of the state, from any thread; it is good until this returns. May raise OSError."""


class Whole:
    """A state in memory, to put pieces in."""

    def __init__(self) -> None:
        self._bytes = BytesIO()  # whose value is taken without a copy
        self._one_at_a_time = threading.Lock()

    def put(self, at: int, piece: memoryview) -> None:
        """The piece belongs there."""
        with self._one_at_a_time:
            self._bytes.seek(at)
            self._bytes.write(piece)

    def taken(self) -> bytes:
        """All of it."""
        return self._bytes.getvalue()


class Helping:
    """One thread at a time that helps one restore, and nobody waits for its turn: who finds it busy works alone."""

    def __init__(self) -> None:
        self._is_free = threading.Lock()

    @contextmanager
    def if_free(self, work: Callable[[], None]) -> Iterator[None]:
        """Has it help meanwhile, to the end."""
        if not self._is_free.acquire(blocking=False):
            yield
            return
        # as those of connections: what it writes to is a client's, and may never take it
        thread = threading.Thread(target=work, name="restore", daemon=True)
        try:
            with suppress(RuntimeError):  # no thread is to be had
                thread.start()
            yield
        finally:
            if thread.ident is not None:
                thread.join()
            self._is_free.release()


class Assembler:
    """One for all readers of a store."""

    def __init__(self, reader: PackReader) -> None:
        self._unpacker = Unpacker(reader)
        self._helping = Helping()

    def put(self, plan: Plan, put: Put, other_copy: OtherCopy) -> None:
        """All of the state, checked, in no order. CheckpointCorruptError if a chunk is not what its hash says and there
        is no other copy, perhaps after all else was put; ``plan.damaged`` names those that are not."""
        if not plan.is_rooted:  # its hash is over all of it, in order
            at = 0
            for piece in self.pieces(plan, other_copy):
                put(at, piece)
                at += len(piece)
            return
        work = _Work(plan, self._unpacker, put, other_copy)
        with self._helping.if_free(work.do) if len(plan.groups) > 1 else nullcontext():
            work.do()
        work.do_again()
        if work.problems:  # damage will be there the next time too
            raise min(work.problems, key=lambda problem: not isinstance(problem, CheckpointCorruptError))

    def pieces(self, plan: Plan, other_copy: OtherCopy) -> Iterator[memoryview]:
        """The same in order. CheckpointCorruptError in the middle."""
        kept = Kept(plan.parts)
        whole = None if plan.is_rooted else blake3()
        for number, part in enumerate(plan.parts):
            found = kept.take(number)
            if found is None:
                read = self._unpacker.unpacked(*plan.groups[part.key], kept.left(part.key), plan.at_rest)
                plan.damaged += _damage_in(part.key, read)
                kept.put(part.key, read)
                found = kept.take(number)
                assert found is not None
            for piece in _right(plan, part, found, other_copy):
                if whole is not None:
                    whole.update(piece)
                yield piece
        if whole is not None and whole.digest() != plan.info.state_hash:
            raise damaged(plan.info, "the whole state does not match its hash")


class _Work:
    """The groups of one plan, shared between those who do them."""

    def __init__(self, plan: Plan, unpacker: Unpacker, put: Put, other_copy: OtherCopy) -> None:
        self._plan = plan
        self._unpacker = unpacker
        self._put = put
        self._other_copy = other_copy
        self._left = deque(plan.groups)
        self._undone = set(plan.groups)
        self.problems: list[SelfwareError | OSError] = []

    def do(self) -> None:
        """As many as are left, until there is a problem: what it is stands in ``problems``."""
        desk: Desk | None = None
        try:
            while (key := self._next()) is not None:
                desk = desk or Desk(group for _, group in self._plan.groups.values())
                self._do(key, desk)
                self._undone.discard(key)
        except (SelfwareError, OSError) as error:
            self.problems.append(error)
        finally:
            self._left.clear()

    def do_again(self) -> None:
        """What a helper left undone that ended in another way, as for want of memory."""
        if not self.problems:
            self._left.extend(self._undone)
            self.do()

    def _next(self) -> Key | None:
        with suppress(IndexError):
            return self._left.popleft()
        return None

    def _do(self, key: Key, desk: Desk) -> None:
        parts = self._plan.parts_of[key]
        group = self._unpacker.unpacked(*self._plan.groups[key], parts, self._plan.at_rest, desk)
        self._plan.damaged += _damage_in(key, group)
        for part in parts:
            at = part.offset
            for piece in _right(self._plan, part, piece_of(part, group), self._other_copy):
                self._put(at, piece)
                at += len(piece)


def _right(plan: Plan, part: Part, found: Unpacked, other_copy: OtherCopy) -> Iterator[memoryview]:
    """All of a part, and in place of what is damaged another copy of it."""
    raw, starts, bad = found
    if not bad:
        yield raw[: starts[-1]]
        return
    for number, (at, end) in enumerate(pairwise(starts)):
        yield _elsewhere(plan, part.key, part.at + number, other_copy) if number in bad else raw[at:end]


def _elsewhere(plan: Plan, key: Key, at: int, other_copy: OtherCopy) -> memoryview:
    pack, group = plan.groups[key]
    chunk = other_copy(group.hashes[at])
    if chunk is None:
        where = checkpoint_id(key[0]) if pack.is_here else f"{pack.path.name} in the cold store"
        problem = f"chunk {group.hashes[at].hex()[:16]} in {where} does not match its hash"
        raise damaged(plan.info, problem)
    return memoryview(chunk)


def _damage_in(key: Key, group: Unpacked) -> list[tuple[int, int]]:
    """All of it at once: the next save must build on none, though reading ends at the first."""
    return [(key[0], key[1] + number) for number in sorted(group[2])]
