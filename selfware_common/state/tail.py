"""Looks at the end of a state first: most of what is new was appended there, and can be sent and compressed while all
before it is still being compared.

The idea: near its end, the state before has a chunk that did not change, only moved. From where it stands now, cuts are
the same as those of a full comparison that comes by there on one of its own; ``compare`` joins the two if it does, and
goes on by itself if it does not. So a wrong guess costs time and changes nothing.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfware_common.state.comparing import Cut, Same, Span

# Chunks before the end: more than a state's last part, which changes without growing. One of them will be as it was.
BACK = (16, 20, 25)
MARK_BYTES = 64
MOVED_BYTES = 256 * 1024  # by so much more than it grew the state may have moved
MOST_TRIES = 4

Find = Callable[[bytes, int, int], int]
"""As bytes.find of the new state."""


@dataclass(slots=True)
class Tail:
    """The end of the new state, from byte ``at`` on, where chunk ``before`` of the state before stands."""

    at: int
    before: int
    cut: Cut
    spans: list[Span]
    is_joined: bool = False  # True: the full comparison came by, this is what the state ends with


def looked_at_from(before: Cut) -> int:
    """No byte of the new state before this one is looked at to find the tail, nor for its cuts."""
    number = len(before.digests) - 1 - BACK[-1]
    return max(0, before.starts[number] - MOVED_BYTES) if number >= 0 else 0


def begin_of_tail(old: bytes | bytearray, before: Cut, find: Find, size: int, same: Same) -> tuple[int, int] | None:
    """Where it begins in the new state of this size, and the old chunk that stands there; None if the states are
    small, or their ends have nothing in common."""
    if len(before.digests) <= 2 * BACK[-1]:
        return None
    moved = max(0, size - before.starts[-1]) + MOVED_BYTES
    for back in BACK:
        number = len(before.digests) - 1 - back
        start = before.starts[number]
        mark = bytes(old[start : start + MARK_BYTES])
        at = max(0, start - MOVED_BYTES)
        for _ in range(MOST_TRIES):
            at = find(mark, at, min(size, start + moved))
            if at < 0:
                break
            if same(at, number, 1):
                return at, number
            at += 1
    return None
