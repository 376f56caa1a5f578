"""Lets upkeep step aside while somebody waits for a state: it has a minute for what it does, and they look at a clock.

Owns nothing but the count. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_SECONDS = 1.0  # a time: upkeep goes on, slowly, however many restores there are


class Precedence:
    """Of restores over upkeep, in one store."""

    def __init__(self) -> None:
        self._restores = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Somebody waits for a state meanwhile."""
        with self._changed:
            self._restores += 1
        try:
            yield
        finally:
            with self._changed:
                self._restores -= 1
                self._changed.notify_all()

    def give_way(self) -> None:
        """Before a piece of work that may as well be done later: return when nobody waits, or after a second."""
        with self._changed:
            self._changed.wait_for(lambda: not self._restores, MOST_SECONDS)
