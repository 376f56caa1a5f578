"""How many living checkpoints use each stored chunk: kept up to date, so that upkeep costs what changed.

Without it every round would have to read the manifest of every checkpoint. A checkpoint is counted once, at the first
upkeep after it was saved or found at the start, and taken off when it is let go; four bytes a chunk. One whose manifest
cannot be read may need any chunk that is older than itself: it counts as using all of them.

Owns no file. Not thread-safe: the store holds a lock.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from selfware_checkpointd.manifest import Run

RunsOf = Callable[[int], list[Run]]
"""What a living checkpoint needs; ValueError if that cannot be read now."""


class ChunkUses:
    """Counts per pack and chunk."""

    def __init__(self, runs_of: RunsOf) -> None:
        self._runs_of = runs_of
        self._counts: dict[int, array[int]] = {}
        self._totals: dict[int, int] = {}  # per pack, all of its counts together
        self._counted: set[int] = set()
        self._waiting: dict[int, None] = {}  # living checkpoints that are not counted yet, oldest first
        self._unreadable: set[int] = set()

    def expect(self, number: int) -> None:
        """This checkpoint lives: count it when there is time, and once."""
        if number not in self._counted and number not in self._unreadable:
            self._waiting[number] = None

    def settle(self, most: int) -> bool:
        """Count so many of those that wait, and try again those that could not be read; True if there are more."""
        for number in [*self._unreadable, *list(self._waiting)[:most]]:
            try:
                runs = self._runs_of(number)
            except ValueError:
                self._unreadable.add(number)
            else:
                self._unreadable.discard(number)
                self._counted.add(number)
                self._change(runs, 1)
            self._waiting.pop(number, None)
        return bool(self._waiting)

    def leave(self, number: int) -> None:
        """This checkpoint is about to be let go; its manifest is still there."""
        self._waiting.pop(number, None)
        self._unreadable.discard(number)
        if number not in self._counted:
            return
        self._counted.remove(number)
        try:
            self._change(self._runs_of(number), -1)
        except ValueError:  # what it used is not known any more: count the others anew
            for one in sorted(self._counted):
                self._waiting[one] = None
            self._counted.clear()
            self._counts.clear()
            self._totals.clear()

    def is_used(self, pack: int) -> bool:
        """Does any living checkpoint need any of its chunks? True as long as some are not counted."""
        return bool(self._waiting) or self._totals.get(pack, 0) > 0 or pack < max(self._unreadable, default=0)

    def alive(self, pack: int, chunks: Iterable[int]) -> set[int]:
        """Those of these chunks of a pack that are needed."""
        if self._waiting or pack < max(self._unreadable, default=0):
            return set(chunks)
        counts = self._counts.get(pack, ())
        return {index for index in chunks if index < len(counts) and counts[index]}

    def forget(self, pack: int) -> None:
        """The pack is gone."""
        self._counts.pop(pack, None)
        self._totals.pop(pack, None)

    def _change(self, runs: Iterable[Run], step: int) -> None:
        for run in runs:
            counts = self._counts.get(run.pack)
            if counts is None:
                counts = self._counts[run.pack] = array("I")
            end = run.first + run.count
            if len(counts) < end:
                counts.frombytes(bytes(counts.itemsize * (end - len(counts))))
            for index in range(run.first, end):
                counts[index] += step
            self._totals[run.pack] = self._totals.get(run.pack, 0) + step * run.count
