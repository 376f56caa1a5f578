"""States that stay in memory, so that the next one of the same kind is compared with bytes and not with hashes.

For clients that keep nothing themselves: comparing 64 MB of memory takes 6 ms, hashing it 18. A state that does not fit
the budget is read through a window instead. Memory is used again and again: fresh memory costs more than the copy.

Not thread-safe: the store holds a lock.
"""

from __future__ import annotations

from collections import OrderedDict

from selfware_checkpointd.manifest import Level

BUDGET_BYTES = 256 * 1024 * 1024
SPARE_SHARE = 8  # a buffer is made by an eighth larger than its state, which grows

Kind = tuple[str, Level]


class Hot:
    """The newest state of some sessions and levels, and one buffer to read the next into."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._states: OrderedDict[Kind, tuple[int, bytearray]] = OrderedDict()
        self._spare = bytearray()
        self._lent_bytes = 0

    def room(self, size: int, kind: Kind | None = None) -> bytearray | None:
        """Memory for a state of this size and the one before it; None if it may not stay. All memory together never
        exceeds the budget: older states of other kinds than this one make room first."""
        wanted = size + size // SPARE_SHARE
        if 2 * wanted > self._budget:
            return None
        room, self._spare = self._spare, bytearray()
        if not size <= len(room) <= self._budget // 2:
            room = bytearray()  # first, so that not both are there at once
            for old in [one for one in self._states if one != kind]:
                if self._bytes() + wanted <= self._budget:
                    break
                del self._states[old]
            if self._bytes() + wanted > self._budget:  # the one before is of another size
                self._states.clear()
            room = bytearray(wanted)
        self._lent_bytes = len(room)
        return room

    def get(self, kind: Kind, number: int) -> bytearray | None:
        """What begins with the state of this checkpoint, if it stayed."""
        found = self._states.get(kind)
        return found[1] if found is not None and found[0] == number else None

    def put(self, kind: Kind, number: int, room: bytearray) -> None:
        """This checkpoint's state stays, in memory that ``room`` gave; that of the one before is free again."""
        old = self._states.pop(kind, None)
        self._states[kind] = (number, room)
        self._lent_bytes = 0
        if old is not None:
            self._spare = old[1]
        while self._bytes() > self._budget and len(self._states) > 1:
            self._states.popitem(last=False)

    def give_back(self, room: bytearray) -> None:
        """Nothing was saved."""
        self._spare, self._lent_bytes = room, 0

    def _bytes(self) -> int:
        return len(self._spare) + self._lent_bytes + sum(len(state) for _, state in self._states.values())
