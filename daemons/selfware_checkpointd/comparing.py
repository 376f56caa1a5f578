"""Cutting a state by comparing it with the one before: what did not change is neither cut nor hashed again.

The idea: a cut depends only on the bytes since the cut before it. So where the new state, from one of its cuts on,
holds the bytes of an old chunk, that chunk is also the next one. The old last chunk is the exception: the end of the
state cut it, not its content, so it is never taken over. The cuts equal those of a full scan (a test proves it).

Keeps the last state and its chunk hashes in memory. Pure otherwise; not for two threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from blake3 import blake3

from selfware_checkpointd.chunking import Chunker

MAX_KEPT_BYTES = 256 * 1024 * 1024

Piece = tuple[bytes, memoryview]
State = bytes | bytearray


@dataclass(frozen=True, slots=True)
class Before:
    """A state and where its chunks begin; starts has one entry more than digests, the end."""

    state: State = b""
    digests: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    index: dict[bytes, int] = field(default_factory=dict)


class Comparer:
    """Cuts one state after the other."""

    def __init__(self, chunker: Chunker) -> None:
        self._chunker = chunker
        self._before = Before()

    def cut(self, state: State) -> list[Piece]:
        """(BLAKE3, data) of every chunk, in order. The state is kept for the next call: do not change it."""
        view = memoryview(state)
        pieces: list[Piece] = []
        at, expected = 0, 0
        while at < len(state):
            same = self._same_chunks(view, at, expected)
            for number in range(expected, expected + same):
                end = at + self._before.starts[number + 1] - self._before.starts[number]
                pieces.append((self._before.digests[number], view[at:end]))
                at = end
            for piece in self._scan(view, at):
                pieces.append(piece)
                at += len(piece[1])
                if (known := self._before.index.get(piece[0])) is not None:
                    expected = known + 1
                    break
        self._keep(state, pieces)
        return pieces

    def forget(self) -> None:
        """Give the memory back."""
        self._before = Before()

    def _scan(self, view: memoryview, at: int) -> Iterator[Piece]:
        for chunk in self._chunker.cut(view[at:]):
            yield blake3(chunk).digest(), chunk

    def _same_chunks(self, view: memoryview, at: int, number: int) -> int:
        """How many old chunks from this one on, the last one excepted, stand in the new state at this place."""
        old, starts = self._before.state, self._before.starts
        most = len(self._before.digests) - 1 - number
        count, stride = 0, 1
        while stride and count < most:
            stride = min(stride, most - count)
            begin, end = starts[number + count], starts[number + count + stride]
            place = at + begin - starts[number]
            if place + end - begin <= len(view) and old.startswith(view[place : place + end - begin], begin):
                count += stride
                stride *= 2
            else:
                stride //= 2
        return max(0, count)

    def _keep(self, state: State, pieces: list[Piece]) -> None:
        if len(state) > MAX_KEPT_BYTES:
            self.forget()
            return
        digests = [digest for digest, _ in pieces]
        starts = list(accumulate((len(data) for _, data in pieces), initial=0))
        self._before = Before(state, digests, starts, {digest: number for number, digest in enumerate(digests)})
