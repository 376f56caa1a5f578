"""What was read for a state that is put together in order, and is wanted again later, as far as memory goes.

Owns the memory.
"""

from __future__ import annotations

from collections import deque

from selfware_checkpointd.plans import Key, Part
from selfware_checkpointd.unpacking import Unpacked, piece_of

KEPT_BYTES = 64 * 1024 * 1024


class Kept:
    """Whole groups, if all fit. Else, of each, only what is wanted of it, and of that only what is wanted soonest: the
    rest is read once more. What was written in one step lies in one group and stands all over the state, so whole
    groups would fill the memory with what is wanted last, or never."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._left: dict[Key, deque[int]] = {}  # the parts that are still wanted, by number
        for number, part in enumerate(parts):
            self._left.setdefault(part.key, deque()).append(number)
        self._groups: dict[Key, Unpacked] = {}
        self._pieces: dict[int, Unpacked] = {}  # by part
        self._bytes = 0

    def put(self, key: Key, group: Unpacked) -> None:
        """It was read, and is wanted now."""
        self._groups[key] = group
        self._bytes += len(group[0])
        if self._bytes > KEPT_BYTES:
            self._shrink(key)

    def take(self, number: int) -> Unpacked | None:
        """What this part needs, once; None if it is not here."""
        part = self._parts[number]
        group = self._groups.get(part.key)
        found = self._pieces.pop(number, None) if group is None else piece_of(part, group)
        if found is None:
            return None
        self._left[part.key].popleft()
        if group is None:
            self._bytes -= len(found[0])
        elif not self._left[part.key]:
            self._bytes -= len(self._groups.pop(part.key)[0])
        return found

    def left(self, key: Key) -> list[Part]:
        """What of a group is still wanted."""
        return [self._parts[number] for number in self._left[key]]

    def _shrink(self, now: Key) -> None:
        found = dict(self._pieces)
        for key in [key for key in self._groups if key != now]:
            group = self._groups.pop(key)
            found |= {number: piece_of(self._parts[number], group) for number in self._left[key]}
        kept, self._pieces = self._pieces, {}
        self._bytes = sum(len(raw) for raw, _, _ in self._groups.values())
        for number in sorted(found):
            raw, starts, bad = found[number]
            if self._bytes + len(raw) > KEPT_BYTES:
                break
            self._pieces[number] = kept.get(number) or (memoryview(bytes(raw)), starts, bad)
            self._bytes += len(raw)
