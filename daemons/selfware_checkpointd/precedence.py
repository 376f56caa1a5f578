"""Lets the upkeep of every minute step aside while somebody waits for a state: it has time, and they look at a clock.

Not for long, and not while a save needs the room that upkeep has borrowed, or the daemon stops. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_SECONDS = 10.0  # in one turn of upkeep, however many restores there are


class Precedence:
    """Of restores over upkeep, in one store; and of what cannot wait over both."""

    def __init__(self) -> None:
        self._restores = 0
        self._pressing = 0
        self._changed = threading.Condition()

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Somebody waits for a state meanwhile."""
        self._count(restores=1)
        try:
            yield
        finally:
            self._count(restores=-1)

    @contextmanager
    def pressing(self) -> Iterator[None]:
        """Upkeep must come to its end meanwhile, whoever waits for a state."""
        self._count(pressing=1)
        try:
            yield
        finally:
            self._count(pressing=-1)

    def press_on(self) -> None:
        """From now on."""
        self._count(pressing=1)

    def turn(self) -> Turn:
        """For one turn of upkeep."""
        return Turn(self._changed, lambda: self._restores == 0 or self._pressing > 0)

    def _count(self, restores: int = 0, pressing: int = 0) -> None:
        with self._changed:
            self._restores += restores
            self._pressing += pressing
            self._changed.notify_all()


class Turn:
    """How long one turn of upkeep still steps aside."""

    def __init__(self, changed: threading.Condition, may_go_on: Callable[[], bool]) -> None:
        self._changed = changed
        self._may_go_on = may_go_on
        self._left_seconds = MOST_SECONDS

    def step_aside(self) -> None:
        """Before a piece of work that may as well be done later: return when it may be done."""
        begin = time.monotonic()
        with self._changed:
            self._changed.wait_for(self._may_go_on, max(0.0, self._left_seconds))
        self._left_seconds -= time.monotonic() - begin
