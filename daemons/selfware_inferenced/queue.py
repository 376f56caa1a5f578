"""Who goes first: the order of the queue, who is admitted, and who must give way.

Pure decisions over anything that has a priority and an arrival number; admission.py acts on them. Priorities are
strict (Critical > High > Normal > Low) and first come, first served inside one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Protocol, TypeVar


class Priority(IntEnum):
    """The numbers are those of inference.proto."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


class Ranked(Protocol):
    """What the decisions need to know of a request."""

    @property
    def priority(self) -> Priority: ...

    @property
    def arrival(self) -> int:
        """Grows with every request; kept when a request has to wait again."""
        ...


R = TypeVar("R", bound=Ranked)


def in_order(waiting: Iterable[R]) -> list[R]:
    """The next one first."""
    return sorted(waiting, key=lambda one: (-one.priority, one.arrival))


def admitted(waiting: Sequence[R], running: int, limit: int) -> list[R]:
    """Those of an ordered queue that may start now, with `running` of `limit` slots taken."""
    return list(waiting[: max(0, limit - running)])


def victims(waiting: Sequence[R], running: Iterable[R], leaving: int) -> list[tuple[R, R]]:
    """(who gives way, for whom), once all slots are taken: one for every critical request of the ordered queue.

    The lowest priority gives way, and among equals the youngest, which loses least. `leaving` counts requests that
    were asked to give way and have not done so yet: their slots are spoken for. Nothing critical ever gives way.
    """
    critical = [one for one in waiting if one.priority is Priority.CRITICAL][leaving:]
    weakest = sorted(running, key=lambda one: (one.priority, -one.arrival))
    return [
        (victim, newcomer)
        for victim, newcomer in zip(weakest, critical, strict=False)
        if victim.priority < newcomer.priority
    ]
