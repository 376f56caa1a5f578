"""What is asked of the agent is part of the present that a restore saves, or is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from selfware_agent.door import Door
from selfware_common.errors import RestoreUnderWayError


class World:
    """oversightd, which answers when it is let."""

    def __init__(self) -> None:
        self.restoring, self.answers = "", asyncio.Event()
        self.answers.set()
        self.door = Door(self.ask)
        self.done: list[str] = []

    async def ask(self) -> str:
        told = self.restoring
        await self.answers.wait()
        return told

    async def record(self) -> None:
        async with self.door.through("No goal is taken"):
            await asyncio.sleep(0)
            self.done.append("recorded")


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        await asyncio.wait_for(scenario(World()), 10)

    asyncio.run(inside())


def test_during_a_restore_nobody_gets_through_and_is_told_why() -> None:
    async def scenario(world: World) -> None:
        world.restoring = "ckpt-7"
        with pytest.raises(RestoreUnderWayError) as told:
            await world.record()
        assert told.value.sentence == "No goal is taken now: a restore to ckpt-7 is under way."
        assert "'selfwarectl restore ckpt-7' finishes it" in told.value.advice
        world.restoring = ""
        await world.record()
        assert world.done == ["recorded"]

    run(scenario)


def test_the_present_is_saved_when_those_have_left_who_asked_before() -> None:
    async def scenario(world: World) -> None:
        world.answers.clear()
        early = asyncio.create_task(world.record())
        await asyncio.sleep(0)
        world.restoring = "ckpt-7"

        async def save() -> None:
            await world.door.settled()
            world.done.append("saved")

        saving = asyncio.create_task(save())
        for _ in range(5):
            await asyncio.sleep(0)
        assert world.done == []
        world.answers.set()
        await asyncio.gather(early, saving)
        assert world.done == ["recorded", "saved"]
        with pytest.raises(RestoreUnderWayError):
            await world.record()

    run(scenario)


def test_who_hangs_up_is_not_waited_for() -> None:
    async def scenario(world: World) -> None:
        world.answers.clear()
        early = asyncio.create_task(world.record())
        await asyncio.sleep(0)
        early.cancel()
        await world.door.settled()

    run(scenario)


def test_while_the_agent_goes_back_nobody_gets_through_whoever_asked_for_it() -> None:
    async def scenario(world: World) -> None:
        world.answers.clear()
        late = asyncio.create_task(world.record())
        await asyncio.sleep(0)
        with world.door.closed("ckpt-7"):
            world.answers.set()
            with pytest.raises(RestoreUnderWayError):
                await late
        await world.record()

    run(scenario)
