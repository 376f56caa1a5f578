"""What people ask comes before a restore or after it, never in between, where it would be forgotten though it was
answered.

A restore is led by its command, and oversightd knows of it first. Then the present is saved: until then whoever asked
us has asked oversightd, too, and is waited for (``settled``); from then on everybody is told no, until it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from selfware_common.errors import RestoreUnderWayError


class Door:
    """Who is inside, and whether it is open."""

    def __init__(self, restoring: Callable[[], Awaitable[str]]) -> None:
        """``restoring`` says to which checkpoint a restore is under way, or ''."""
        self._restoring = restoring
        self._closed_for = ""
        self._inside: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def through(self, what: str) -> AsyncIterator[None]:
        """Inside, no restore saves the present or goes back. Raises RestoreUnderWayError ("{what} now: …")."""
        left = asyncio.get_running_loop().create_future()
        self._inside.add(left)
        try:
            if checkpoint_id := self._closed_for or await self._restoring() or self._closed_for:
                raise RestoreUnderWayError(what=what, checkpoint_id=checkpoint_id)
            yield
        finally:
            self._inside.discard(left)
            left.set_result(None)

    async def settled(self) -> None:
        """Return when all have left that are inside now."""
        if self._inside:
            await asyncio.wait(set(self._inside))

    @contextmanager
    def closed(self, checkpoint_id: str) -> Iterator[None]:
        """Inside, nobody gets through, whatever oversightd knows; who is in already has to be waited for."""
        before, self._closed_for = self._closed_for, checkpoint_id
        try:
            yield
        finally:
            self._closed_for = before
