"""Who watches which effect: wakes them on a change, tells them when we stop. Knows nothing of effects but their ids."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator


class Watchers:
    """The callers that wait for something to change."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()  # something happened somewhere; the daemon's cycle clears it
        self.stopping = False
        self._signals: dict[str, asyncio.Event] = {}
        self._counts: Counter[str] = Counter()

    def count(self, name: str) -> int:
        """How many watch it now."""
        return self._counts[name]

    def tell(self, name: str) -> None:
        """It changed."""
        self.changed.set()
        if (signal := self._signals.pop(name, None)) is not None:
            signal.set()

    def hang_up(self) -> None:
        """We stop: wake everybody."""
        self.stopping = True
        for name in list(self._signals):
            self.tell(name)

    async def turns(self, name: str) -> AsyncGenerator[None, None]:
        """Once now and once after every change; a change between two looks is never missed."""
        self._counts[name] += 1
        try:
            while True:
                signal = self._signals.setdefault(name, asyncio.Event())
                yield
                await signal.wait()
        finally:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
                self._signals.pop(name, None)
