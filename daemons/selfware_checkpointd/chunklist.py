"""Which stored chunks, in which order, make up a state: kept for the newest checkpoints, so that a save only has to say
what changed since.

Runs are places on disk, the cut is what lies there. Both are taken over in slices, so a save costs what is new and
not how much there is. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping

from selfware_checkpointd.manifest import Run
from selfware_common.state.comparing import Cut

MOST_CHUNKS = 100_000  # of all lists that are kept; 64 MB of state have 3,300 of them, which take 0.5 MB
MOST_LISTS = 64  # a micro checkpoint has few chunks, but there are many: they must not drive out the others


class ChunkList:
    """A state's cut, and where its chunks lie."""

    __slots__ = ("_ends", "cut", "runs")

    def __init__(self) -> None:
        self.cut = Cut()
        self.runs: list[Run] = []
        self._ends: list[int] = []  # per run: how many chunks there are up to its end

    def take(self, other: ChunkList, first: int, count: int) -> None:
        """Go on with some chunks of another state; IndexError if it has not so many."""
        if first < 0 or count < 1 or first + count > len(other.cut.digests):
            raise IndexError(f"chunks {first} to {first + count} of {len(other.cut.digests)}")
        self.cut.take(other.cut, first, count)
        at = bisect_right(other._ends, first)
        while count:
            run = other.runs[at]
            skipped = first - (other._ends[at] - run.count)
            taken = min(count, run.count - skipped)
            self._go_on(run.pack, run.first + skipped, taken)
            first += taken
            count -= taken
            at += 1

    def add(self, digest: bytes, length: int, pack: int, index: int) -> None:
        """Go on with one chunk, which lies there."""
        self.cut.add(digest, length)
        self._go_on(pack, index, 1)

    def touches(self, lost: Mapping[int, set[int]]) -> bool:
        """Is one of these chunks (per pack) among its own?"""
        return any(run.first <= index < run.first + run.count for run in self.runs for index in lost.get(run.pack, ()))

    def _go_on(self, pack: int, first: int, count: int) -> None:
        total = (self._ends[-1] if self._ends else 0) + count
        last = self.runs[-1] if self.runs else None
        if last is not None and last.pack == pack and last.first + last.count == first:
            self.runs[-1] = Run(pack, last.first, last.count + count)
            self._ends[-1] = total
        else:
            self.runs.append(Run(pack, first, count))
            self._ends.append(total)


class Newest:
    """The chunk lists of the checkpoints that were saved or asked for last, by number."""

    def __init__(self) -> None:
        self._lists: OrderedDict[int, ChunkList] = OrderedDict()

    def get(self, number: int) -> ChunkList | None:
        """The list, and it is young again."""
        found = self._lists.get(number)
        if found is not None:
            self._lists.move_to_end(number)
        return found

    def put(self, number: int, chunks: ChunkList) -> None:
        """Keep it; the oldest one goes."""
        self._lists[number] = chunks
        self._lists.move_to_end(number)
        while len(self._lists) > MOST_LISTS or (self._chunks() > MOST_CHUNKS and len(self._lists) > 2):
            self._lists.popitem(last=False)

    def forget(self, number: int) -> None:
        """Its checkpoint is gone."""
        self._lists.pop(number, None)

    def _chunks(self) -> int:
        return sum(len(one.cut.digests) for one in self._lists.values())
