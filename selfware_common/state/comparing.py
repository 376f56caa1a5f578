"""Cutting a state by comparing it with the one before: what did not change is neither cut nor hashed again.

The idea: a cut depends only on the bytes since the cut before it. So where the new state, from one of its cuts on,
holds the bytes of an old chunk, that chunk is also the next one. The old last chunk is the exception: the end of the
state cut it, not its content, so it is never taken over. The cuts equal those of a full scan (a test proves it).

Runs of unchanged chunks are compared as one piece of memory and taken over as one slice: a save costs what changed,
and one look at the rest. Pure; not for two threads at once.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from dataclasses import dataclass, field

from blake3 import blake3

from selfware_common.state.chunking import MAX_BYTES, Chunker
from selfware_common.state.sameness import Sameness
from selfware_common.state.tail import Find, Tail, begin_of_tail

State = bytes | bytearray | memoryview
NEARBY = 128  # chunks
MOST_MISSES = 128  # new chunks, until what moved far away is looked for, too
SMALL_BYTES = 4 * 1024 * 1024
LONGEST_STRIDE = 64  # chunks compared at once: a difference found in them is looked for once more

Same = Callable[[int, int, int], int]
Need = Callable[[int], None]
"""Returns when all bytes up to this one may be looked at."""


@dataclass(slots=True)
class Cut:
    """A state's chunks: their BLAKE3 digests, and where they begin; starts has one entry more, the end."""

    digests: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])

    def root(self) -> bytes:
        """BLAKE3-256 of all digests in order: equal for two cuts exactly if the states are equal."""
        return root_of(self.digests)

    def take(self, other: Cut, first: int, count: int) -> None:
        """Go on with some chunks of another cut."""
        shift = self.starts[-1] - other.starts[first]
        starts = other.starts[first + 1 : first + count + 1]
        self.starts += [start + shift for start in starts] if shift else starts
        self.digests += other.digests[first : first + count]

    def add(self, digest: bytes, length: int) -> None:
        """Go on with one chunk."""
        self.digests.append(digest)
        self.starts.append(self.starts[-1] + length)


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring chunks of the new state: taken from the one before from chunk `before` on, or new if that is -1."""

    before: int
    count: int


class Numbers:
    """Which chunk has this digest? Edits are small, so it is looked for nearby first; a table of all takes 1 ms."""

    def __init__(self, digests: list[bytes]) -> None:
        self._digests = digests
        self._table: dict[bytes, int] | None = None
        self._misses = 0

    def of(self, digest: bytes, near: int) -> int | None:
        """Its number, the one at or after ``near`` if there are several nearby; None if there is none."""
        if self._table is None:
            try:
                return self._digests.index(digest, near, near + NEARBY)
            except ValueError:
                self._misses += 1
                if self._misses < MOST_MISSES:
                    return None
            self._table = {one: number for number, one in enumerate(self._digests)}
        return self._table.get(digest)


def root_of(digests: list[bytes]) -> bytes:
    """What a state is known by: BLAKE3-256 of the digests of its chunks, in order."""
    return blake3(b"".join(digests)).digest()


def compare(
    chunker: Chunker,
    state: State,
    before: Cut,
    same: Same,
    begin: tuple[int, int] = (0, 0),
    tail: Tail | None = None,
    need: Need | None = None,
) -> tuple[Cut, list[Span]]:
    """Cut the state. ``same(at, chunk, most)`` says how many of the chunks before, at most so many, from that one on
    stand in the new state from byte ``at`` on. begin: the byte to begin at, a cut, and the old chunk to expect there.
    tail: the cuts from some byte on, taken over if that is a cut. need: is called before bytes are looked at.
    """
    view = memoryview(state)
    cut, spans = Cut(starts=[begin[0]]), []
    known = Numbers(before.digests)
    expected, most = begin[1], len(before.digests) - 1  # never the last one
    while (at := cut.starts[-1]) < len(view):
        if tail is not None and at == tail.at:
            cut.take(tail.cut, 0, len(tail.cut.digests))
            spans += tail.spans
            tail.is_joined = True
            break
        most_now = tail.before if tail is not None and expected < tail.before else most
        if expected < most and (count := same(at, expected, most_now - expected)):
            cut.take(before, expected, count)
            spans.append(Span(expected, count))
            expected += count
            at = cut.starts[-1]
            if expected == most_now:
                continue
        new = 0
        near, expected = expected, most
        pieces = chunker.cut(view[at:])
        while True:
            if need is not None:
                need(cut.starts[-1] + 2 * MAX_BYTES)
            chunk = next(pieces, None)
            if chunk is None:
                break
            digest = blake3(chunk).digest()
            cut.add(digest, len(chunk))
            number = known.of(digest, near)
            if number is None:
                new += 1
            else:
                if new:
                    spans.append(Span(-1, new))
                    new = 0
                spans.append(Span(number, 1))
                if number < most:
                    expected = number + 1
                    break
            if tail is not None and cut.starts[-1] == tail.at:
                break
        if new:
            spans.append(Span(-1, new))
    return cut, _joined(spans)


def tail_of(
    chunker: Chunker, old: bytes | bytearray, new: memoryview, find: Find, before: Cut, same: Same
) -> Tail | None:
    """What the new state ends with, cut before the rest of it is looked at; None if that is no use here."""
    begin = begin_of_tail(old, before, find, len(new), same)
    if begin is None:
        return None
    cut, spans = compare(chunker, new, before, same, begin)
    return Tail(*begin, cut, spans)


def same_in_memory(
    old: bytes | bytearray, new: bytes | bytearray, size: int, before: Cut, need: Need | None = None
) -> Same:
    """The answer for ``compare`` where both states are at hand, the new one as the first so many bytes: memory is
    compared in strides that double."""
    starts, sameness = before.starts, Sameness(old, new)

    def same(at: int, number: int, most: int) -> int:
        count, stride = 0, 1
        while stride and count < most:
            stride = min(stride, most - count)
            begin, length = starts[number + count], starts[number + count + stride] - starts[number + count]
            place = at + begin - starts[number]
            if need is not None:
                need(place + length)
            if place + length <= size and sameness.of(begin, place, length):
                count += stride
                stride = min(2 * stride, LONGEST_STRIDE)
            else:
                stride //= 2
        return count

    return same


def places(spans: list[Span]) -> list[tuple[int, int]]:
    """(first chunk, count) of what is new, in chunks of the cut that the spans belong to."""
    found, at = [], 0
    for span in spans:
        if span.before < 0:
            found.append((at, span.count))
        at += span.count
    return found


class Comparer:
    """Cuts one state after the other, and keeps the last one to compare with: do not change it meanwhile."""

    def __init__(self, chunker: Chunker) -> None:
        self._chunker = chunker
        self._state: bytes | bytearray = b""
        self._old: bytes | bytearray = b""
        self.before = Cut()

    def cut(self, state: bytes | bytearray, early: Callable[[Tail], None] | None = None) -> tuple[Cut, list[Span]]:
        """The cut of this state, and what of it stood in the one before. early: is told of its end first, which is
        right if it ``is_joined`` when this returns."""
        view = memoryview(state)
        same = same_in_memory(self._state, state, len(state), self.before)
        tail = None
        if early is not None:
            tail = tail_of(self._chunker, self._state, view, state.find, self.before, same)
            if tail is not None:
                early(tail)
        cut, spans = compare(self._chunker, state, self.before, same, tail=tail)
        self._old, self._state, self.before = self._state, state, cut
        return cut, spans

    def release(self) -> None:
        """Give back the memory of the state before the last one: 5 ms for 64 MB, so a thread of its own does it."""
        if len(self._old) < SMALL_BYTES:
            self._old = b""
            return
        doomed, self._old = [self._old], b""
        _thread.start_new_thread(doomed.clear, ())  # does not wait, as Thread.start() does, until it runs

    def forget(self) -> None:
        """Compare the next state with nothing, and give the memory back."""
        self._old, self._state, self.before = b"", b"", Cut()


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is not None and (
            (span.before < 0 and last.before < 0) or (0 <= last.before == span.before - last.count)
        ):
            joined[-1] = Span(last.before, last.count + span.count)
        else:
            joined.append(span)
    return joined
