"""Cutting a state of which only the hashes of the one before are left, a window at a time.

The same cuts as ``comparing`` makes, for who does not keep states: where the new state holds, from one of its cuts on,
bytes with the hash of an old chunk, that chunk is also the next one. No more than a window of the state is in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from blake3 import blake3

from selfware_common.state.chunking import MAX_BYTES, Chunker
from selfware_common.state.comparing import Cut, Numbers, Span

WINDOW_BYTES = 8 * 1024 * 1024

Read = Callable[[memoryview, int], int]
"""Fills the memory from this offset on; how many bytes it could."""
Found = tuple[Span, list[tuple[bytes, memoryview]]]
"""Neighbouring chunks; of new ones their hashes and data, good until the next are asked for."""


class ShorterError(Exception):
    """The source ended before its announced size."""


class Window:
    """What of a source is in memory, from where we stand on."""

    def __init__(self, size: int, read: Read, room: memoryview | None = None) -> None:
        """room: memory to read into; its length is the window's."""
        self._read = read
        self._size = size
        self._room = memoryview(bytearray(min(size, WINDOW_BYTES))) if room is None else room
        self._begin = self._at = self._filled = 0  # of the source, and within the window

    @classmethod
    def over(cls, state: memoryview) -> Window:
        """All of a state that is in memory anyway."""
        window = cls(len(state), lambda _room, _at: 0, state)
        window._filled = len(state)
        return window

    @property
    def is_at_end(self) -> bool:
        return self._begin + self._at == self._size

    @property
    def holds_end(self) -> bool:
        """Does the source end in this window?"""
        return self._begin + self._filled == self._size

    def rest(self) -> memoryview:
        """What lies before us, at least one chunk of it if there is one; raises ShorterError."""
        if self._filled - self._at < 2 * MAX_BYTES and not self.holds_end:
            kept = self._filled - self._at
            self._room[:kept] = self._room[self._at : self._filled]
            self._begin, self._at, self._filled = self._begin + self._at, 0, kept
            wanted = min(len(self._room), self._size - self._begin)
            while self._filled < wanted:
                came = self._read(self._room[self._filled : wanted], self._begin + self._filled)
                if not came:
                    raise ShorterError
                self._filled += came
        return self._room[self._at : self._filled]

    def go(self, count: int) -> None:
        """So many bytes on."""
        self._at += count


def scan(chunker: Chunker, window: Window, before: Cut) -> Iterator[Found]:
    """Everything in the source, in order, as what stood in the state before and what is new."""
    known = Numbers(before.digests)
    most = len(before.digests) - 1  # the end cut the last one, not its content
    expected = 0
    while not window.is_at_end:
        rest = window.rest()
        if expected < most:
            count = _same(rest, before, expected, most)
            if count:
                window.go(before.starts[expected + count] - before.starts[expected])
                yield Span(expected, count), []
                expected += count
                continue
        near, expected = expected, most
        fresh: list[tuple[bytes, memoryview]] = []
        at = 0
        for chunk in chunker.cut(rest):
            at += len(chunk)
            if at == len(rest) and not window.holds_end:
                break  # the window cut it
            window.go(len(chunk))
            digest = blake3(chunk).digest()
            number = known.of(digest, near)
            if number is None:
                fresh.append((digest, chunk))
                continue
            if fresh:
                yield Span(-1, len(fresh)), fresh
                fresh = []
            yield Span(number, 1), []
            if number < most:
                expected = number + 1
                break
        if fresh:
            yield Span(-1, len(fresh)), fresh


def _same(rest: memoryview, before: Cut, first: int, most: int) -> int:
    """How many old chunks from this one on stand at the beginning of the rest."""
    starts, digests = before.starts, before.digests
    begin = starts[first]
    last = min(most, bisect_right(starts, begin + len(rest)) - 1)
    for number in range(first, last):
        if blake3(rest[starts[number] - begin : starts[number + 1] - begin]).digest() != digests[number]:
            return number - first
    return last - first
