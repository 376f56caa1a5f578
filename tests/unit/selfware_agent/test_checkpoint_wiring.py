"""The agent does what its schedule says: it saves, tries again after a failure, and hears how the machine is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc.aio
import pytest

from selfware_agent import state
from selfware_agent.__main__ import LEVELS, AgentDaemon
from selfware_agent.checkpoint_schedule import Level, Rules, Schedule
from selfware_agent.watch import Watch
from selfware_agent.worker import Gate
from selfware_common import paths
from selfware_common.rpc import checkpoint_pb2, resource_pb2
from selfware_common.settings import Settings

CRITICAL, WARNING = resource_pb2.PRESSURE_CRITICAL, resource_pb2.PRESSURE_WARNING


class Store:
    """Memory whose checkpoints fail as often as told."""

    def __init__(self, failures: int) -> None:
        self.session = state.Session(sequence=500)
        self.unsaved = ""
        self.failures = failures
        self.asked: list[tuple[int, str]] = []

    async def checkpoint(self, level: int, label: str) -> checkpoint_pb2.CheckpointInfo | None:
        self.asked.append((level, label))
        self.failures -= 1
        return None if self.failures >= 0 else checkpoint_pb2.CheckpointInfo()


@pytest.fixture
def agent(tmp_path: Path) -> AgentDaemon:
    """Recovered an hour ago from a checkpoint of event 400; everything else of it is not looked at."""
    where = cast(paths.Paths, SimpleNamespace(state=tmp_path))
    one = AgentDaemon(where, Settings())
    one.log = logging.getLogger("test")
    return one


def prepare(agent: AgentDaemon, store: Store, began: float) -> None:
    agent._memory = cast(Any, store)
    agent._watch = cast(Any, SimpleNamespace(memory_short=False, disk_full=""))
    agent._schedule = Schedule.begin(Rules.of(Settings().checkpoint, LEVELS), began, sequence=400)


def test_what_is_due_is_saved_once_and_a_failed_save_is_due_again_but_not_at_once(agent: AgentDaemon) -> None:
    async def scenario() -> None:
        store = Store(failures=1)
        prepare(agent, store, began=-3_600.0)
        await agent._save_if_due()
        await agent._save_if_due()
        assert store.asked == [(checkpoint_pb2.LEVEL_SESSION, "event 500")]
        assert agent._schedule.failures == 1
        agent._schedule = Schedule.begin(agent._schedule.rules, -3_600.0, sequence=400)
        await agent._save_if_due()
        await agent._save_if_due()
        assert len(store.asked) == 2
        assert agent._schedule.due_on_stop(agent._facts_to_save()) is None

    asyncio.run(scenario())


def test_a_full_disk_is_told_as_the_reason_why_checkpoints_pause(agent: AgentDaemon) -> None:
    async def scenario() -> None:
        store = Store(failures=0)
        prepare(agent, store, began=-3_600.0)
        cast(Any, agent._watch).disk_full = "disk 96% used"
        await agent._save_if_due()
        assert store.asked == [(Level.MICRO, "event 500")]
        assert (await agent._look_at_checkpoints()).startswith("session checkpoints pause (disk 96% used)")
        assert agent._schedule.due_on_stop(agent._facts_to_save()) is Level.SESSION

    asyncio.run(scenario())


def test_a_retried_task_that_ends_again_is_one_more_end(agent: AgentDaemon) -> None:
    prepare(agent, Store(failures=0), began=0.0)
    goal = state.Goal("t", "do it", "/w")
    counts = []
    for now, run in (
        (state.Phase.RUNNING, 1),
        (state.Phase.SOLVED, 1),
        (state.Phase.QUEUED, 2),
        (state.Phase.FAILED, 2),
    ):
        task = state.Task(goal, phase=now, run=run)
        cast(Any, agent._memory).session = state.Session(sequence=1, tasks={"t": task})
        counts.append(agent._facts_to_save().ended_tasks)
    assert counts == [0, 1, 1, 2]


def test_pressure_of_memory_and_disk_reaches_the_schedule() -> None:
    async def scenario() -> None:
        memory = resource_pb2.Memory
        disk = resource_pb2.Disk
        watch = await watched(memory(pressure=WARNING), disk(pressure=WARNING, used_ratio=0.8))
        assert (watch.memory_short, watch.disk_full) == (False, "")
        watch = await watched(memory(pressure=CRITICAL), disk(pressure=CRITICAL, used_ratio=0.9))
        assert (watch.memory_short, watch.disk_full) == (True, "disk 90% used")
        watch = await watched(memory(), disk(pressure=CRITICAL, used_ratio=0.2, inodes_used_ratio=0.99))
        assert (watch.memory_short, watch.disk_full) == (False, "inodes 99% used")

    asyncio.run(scenario())


async def watched(memory: resource_pb2.Memory, disk: resource_pb2.Disk) -> Watch:
    """A watch that has got one reading."""
    read = asyncio.Event()

    async def readings() -> AsyncIterator[resource_pb2.Reading]:
        yield resource_pb2.Reading(memory=memory, disk=disk)
        read.set()

    async with grpc.aio.insecure_channel("unix:nobody") as channel:
        watch = Watch(Gate(asyncio.Semaphore(1)), channel, channel)
        watch._resource = cast(Any, SimpleNamespace(Watch=lambda _request: readings()))
        watching = asyncio.create_task(watch.pressure())
        await asyncio.wait_for(read.wait(), 10)
        watching.cancel()
        return watch
