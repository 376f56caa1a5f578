"""Work that goes on although whoever asked for it hangs up, until it is done or we stop. Owns its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import grpc

from selfware_common.errors import SelfwareError

Result = TypeVar("Result")


class StoppedError(SelfwareError):
    """selfware-oversightd stopped in the middle of it."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 75  # EX_TEMPFAIL
    hint = "Ask again: what was captured does not count, what was restored in part is completed."


class Errands(Generic[Result]):
    """Tasks of one kind."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Result]] = set()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Its result, for as long as anybody waits for it. StoppedError if we stop first."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise StoppedError from None
            raise

    async def close(self) -> None:
        """Stop what is under way, wherever it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
