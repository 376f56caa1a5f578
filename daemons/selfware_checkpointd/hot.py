"""The hot tier: states that stay in memory, up to five of each session and level, as far as the budget goes.

They serve twice. The next state of the same kind is compared with bytes and not with hashes: comparing 64 MB of memory
takes 6 ms, hashing it 18. And a restore of one of them does not touch the disk; its chunks are verified all the same.
Memory is used again and again, for fresh memory costs more than the copy. A state that does not fit the budget twice is
read through a window instead.

Saves that send only what changed (``Store.save_change``) leave nothing here: putting the state together would cost such
a save a third of its time, and what was just written is in the system's cache.

Not thread-safe: the store holds a lock. What is pinned is not overwritten.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from blake3 import blake3

from selfware_checkpointd.manifest import Level
from selfware_common.state.comparing import Cut

BUDGET_BYTES = 256 * 1024 * 1024
SPARE_SHARE = 8  # a buffer is made by an eighth larger than its state, which grows
MOST_OF_A_KIND = 5
MOST_LOADED_BYTES = 64 * 1024 * 1024  # of a state that was loaded: it was made beside everything else here

Kind = tuple[str, Level]


@dataclass(slots=True)
class State:
    """A checkpoint's state: the first ``size`` bytes of the room."""

    kind: Kind
    room: bytearray | bytes
    size: int
    pins: int = 0


class Hot:
    """States by checkpoint number, the least used first, and one buffer to read the next into."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._states: OrderedDict[int, State] = OrderedDict()
        self._spare = bytearray()
        self._lent_bytes = 0  # what ``room`` gave, until it is put or given back

    def room(self, size: int, kind: Kind | None = None) -> bytearray | None:
        """Memory for a state of this size and the one before it; None if it may not stay. All memory together never
        exceeds the budget: the least wanted states make room first, the newest one of this kind last."""
        wanted = size + size // SPARE_SHARE
        if 2 * wanted > self._budget:
            return None
        room, self._spare = self._spare, bytearray()
        if not self._suits(room, size):
            room = bytearray()  # first, so that not both are there at once
            while self._states and self._bytes() + wanted > self._budget:
                old: State | None = self._states.pop(self._least_wanted(kind))
                if old and isinstance(old.room, bytearray) and not old.pins and self._suits(old.room, size):
                    room = old.room
                    break
                old = None  # now: new memory is written to as it is made
            room = room or bytearray(wanted)
        self._lent_bytes = len(room)
        return room

    def get(self, kind: Kind, number: int) -> bytearray | None:
        """What begins with the state of this checkpoint, if it stayed."""
        found = self._states.get(number)
        return found.room if found is not None and found.kind == kind and isinstance(found.room, bytearray) else None

    def put(self, kind: Kind, number: int, room: bytearray, size: int) -> None:
        """This checkpoint's state stays, in memory that ``room`` gave."""
        self._lent_bytes = 0
        self._enter(number, State(kind, room, size))

    def keep(self, kind: Kind, number: int, state: bytes) -> None:
        """A state that was loaded stays too, if it is not large."""
        if len(state) <= MOST_LOADED_BYTES and number not in self._states:
            self._enter(number, State(kind, state, len(state)))

    def numbers(self) -> list[int]:
        """The checkpoints whose states are here."""
        return list(self._states)

    def state(self, number: int) -> memoryview | None:
        """The state of this checkpoint, if it is here; to be used while nobody saves."""
        found = self._states.get(number)
        return None if found is None else memoryview(found.room)[: found.size].toreadonly()

    def pin(self, number: int) -> memoryview | None:
        """The same, not overwritten until it is unpinned."""
        found = self._states.get(number)
        if found is not None:
            self._states.move_to_end(number)
            found.pins += 1
        return self.state(number)

    def unpin(self, number: int, pinned: memoryview) -> None:
        """Whoever pinned it is done. Other memory may hold this state by now: that has pins of its own."""
        found = self._states.get(number)
        if found is not None and found.room is pinned.obj:
            found.pins -= 1

    def forget(self, number: int) -> None:
        """Its checkpoint is gone, or the memory is not what it was."""
        self._states.pop(number, None)

    def give_back(self, room: bytearray) -> None:
        """Nothing was saved."""
        self._spare, self._lent_bytes = room, 0

    def _enter(self, number: int, state: State) -> None:
        self._states[number] = state
        self._states.move_to_end(number)
        same = [known for known, other in self._states.items() if other.kind == state.kind]
        if len(same) > MOST_OF_A_KIND:
            del self._states[same[0]]
        while self._bytes() > self._budget and len(self._states) > 1:
            del self._states[self._least_wanted(state.kind)]

    def _least_wanted(self, kind: Kind | None) -> int:
        """The one to go: the least used, but rather one that is not read and not the newest of its kind; that of this
        kind last of all."""
        newest = {state.kind: number for number, state in sorted(self._states.items())}

        def worth(number: int) -> tuple[bool, bool, bool]:
            state = self._states[number]
            is_newest = newest[state.kind] == number
            return is_newest and state.kind == kind, state.pins > 0, is_newest

        return min(self._states, key=worth)

    def _suits(self, room: bytearray, size: int) -> bool:
        return 0 < size <= len(room) <= self._budget // 2

    def _bytes(self) -> int:
        return len(self._spare) + self._lent_bytes + sum(len(state.room) for state in self._states.values())


def is_right(state: memoryview, cut: Cut) -> bool:
    """Is each chunk of a state what its hash says?"""
    ends = zip(cut.digests, cut.starts, cut.starts[1:], strict=False)
    return cut.starts[-1] == len(state) and all(blake3(state[at:end]).digest() == digest for digest, at, end in ends)
