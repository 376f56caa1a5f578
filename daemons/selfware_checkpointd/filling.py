"""Reads a state into memory while it is already being compared: its end first, then from both ends to the middle.

Whoever compares reads what it needs next, and so finds it in the processor's cache; a helper reads from the other end
until they meet. The end comes first because most of what is new is there: it is compressed while the rest is looked at.

Owns no thread; the memory is the caller's, who waits with ``close`` before he uses it for anything else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, wait

from selfware_checkpointd.ahead import Ahead
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Cut, compare, places, same_in_memory, tail_of
from selfware_common.state.scanning import Found, Read, ShorterError
from selfware_common.state.tail import looked_at_from

STAGE_BYTES = 1024 * 1024


class Filling:
    """One state of known size."""

    def __init__(self, room: bytearray, size: int, read: Read, helper: Executor) -> None:
        """room: at least as large."""
        self.room = room
        self.state = memoryview(room)[:size]
        self._read = read
        self._helper = helper
        self._helping: Future[None] | None = None
        self._lock = threading.Lock()
        self._end = size  # of what is read in stages
        self._low, self._high = 0, 0  # stages that are still nobody's

    def begin(self, end_from: int) -> None:
        """Read the end from this byte on; raises ShorterError. From then on the helper reads, too."""
        self._fill(end_from, len(self.state))
        self._end, self._high = end_from, -(-end_from // STAGE_BYTES)
        self._helping = self._helper.submit(self._help)

    def need(self, end: int) -> None:
        """Return when everything up to this byte is there; raises ShorterError."""
        while self._low * STAGE_BYTES < min(end, self._end):
            with self._lock:
                stage = self._low
                is_mine = stage < self._high
                self._low += is_mine
            if is_mine:
                self._fill_stage(stage)
            else:  # the helper has the rest
                assert self._helping is not None
                self._helping.result()
                self._end = 0

    def close(self) -> None:
        """Return when nobody writes into the memory any more."""
        with self._lock:
            self._high = 0
        if self._helping is not None:
            wait([self._helping])

    def _help(self) -> None:
        while True:
            with self._lock:
                if self._high <= self._low:
                    return
                self._high -= 1
                stage = self._high
            self._fill_stage(stage)

    def _fill_stage(self, stage: int) -> None:
        self._fill(stage * STAGE_BYTES, min(self._end, (stage + 1) * STAGE_BYTES))

    def _fill(self, begin: int, end: int) -> None:
        while begin < end:
            came = self._read(self.state[begin:end], begin)
            if not came:
                raise ShorterError
            begin += came


def compared(chunker: Chunker, old: bytearray, before: Cut, filling: Filling, ahead: Ahead) -> Iterator[Found]:
    """Everything in the new state, in order, as what stood in the old one and what is new; ShorterError if it ends
    early. What is new at its end is given to ``ahead`` first."""
    state, room = filling.state, filling.room
    filling.begin(min(len(state), looked_at_from(before)))
    size = len(state)
    tail = tail_of(chunker, old, state, room.find, before, same_in_memory(old, room, size, before))  # that is there
    if tail is not None:
        starts = tail.cut.starts
        new = [n for first, count in places(tail.spans) for n in range(first, first + count)]
        ahead.add([(tail.cut.digests[n], state[starts[n] : starts[n + 1]]) for n in new])
    same = same_in_memory(old, room, size, before, filling.need)
    cut, spans = compare(chunker, state, before, same, tail=tail, need=filling.need)
    at = 0
    for span in spans:
        fresh = range(at, at + span.count) if span.before < 0 else range(0)
        yield span, [(cut.digests[n], state[cut.starts[n] : cut.starts[n + 1]]) for n in fresh]
        at += span.count
