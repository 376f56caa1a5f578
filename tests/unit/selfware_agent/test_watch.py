"""Whether a restore is under way is asked of oversightd; while it is away, what it said last counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import grpc.aio
import pytest

from selfware_agent.errors import OversightAwayError
from selfware_agent.watch import Watch
from selfware_agent.worker import Gate
from selfware_common.rpc import oversight_pb2


class Call:
    """A stream of one fact, or of an error; then it lasts."""

    def __init__(self, restoring: str | None) -> None:
        self.restoring, self.cancelled = restoring, False

    async def __aiter__(self) -> AsyncIterator[oversight_pb2.Control]:
        if self.restoring is None:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        yield oversight_pb2.Control(paused=bool(self.restoring), restoring=self.restoring, reason="restoring it")
        await asyncio.Event().wait()

    def cancel(self) -> None:
        self.cancelled = True


def watch(scenario: Callable[[Watch, dict[str, Any]], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        oversight: dict[str, Any] = {"says": None, "calls": []}

        def call(*_: Any, **__: Any) -> Call:
            oversight["calls"].append(Call(oversight["says"]))
            return cast(Call, oversight["calls"][-1])

        async with grpc.aio.insecure_channel("unix:/nobody") as channel:
            one = Watch(Gate(asyncio.Semaphore(1)), channel, channel)
            one._oversight = cast(Any, SimpleNamespace(WatchControl=call))
            await asyncio.wait_for(scenario(one, oversight), 10)

    asyncio.run(inside())


def test_oversightd_is_asked_whatever_it_published_before() -> None:
    async def scenario(one: Watch, oversight: dict[str, Any]) -> None:
        for says in ("", "ckpt-7", ""):
            oversight["says"] = says
            assert await one.restoring() == says
        assert all(call.cancelled for call in oversight["calls"])

    watch(scenario)


def test_while_oversightd_is_away_what_it_said_last_counts() -> None:
    async def scenario(one: Watch, oversight: dict[str, Any]) -> None:
        with pytest.raises(OversightAwayError, match="cannot tell whether a restore is under way"):
            await one.restoring()
        oversight["says"] = "ckpt-7"
        following = asyncio.create_task(one.control())
        while not one.paused:
            await asyncio.sleep(0)
        oversight["says"] = None
        assert await one.restoring() == "ckpt-7"
        following.cancel()

    watch(scenario)
