"""The agent does what its schedule says: it saves, tries again after a failure, and hears how the machine is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc.aio
import pytest

from selfware_agent import state
from selfware_agent.checkpoint_schedule import Level, Schedule
from selfware_agent.errors import CheckpointRefusedError, NothingToSaveError, NotQuietError, NotSavedError
from selfware_agent.keeping import AGAIN_SECONDS, Keeper, open_effects, workspaces_of
from selfware_agent.mind import Partial
from selfware_agent.watch import Watch
from selfware_agent.worker import Gate
from selfware_common.rpc import checkpoint_pb2, resource_pb2
from selfware_common.settings import Settings

CRITICAL, WARNING = resource_pb2.PRESSURE_CRITICAL, resource_pb2.PRESSURE_WARNING
HOUR = 3600 * 10**9


class Store:
    """Memory whose checkpoints fail as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.session = self.session_saved = state.Session(sequence=500)
        self.session_id, self.epoch = "main", 3
        self.checkpointed_sequence = 400
        self.unsaved = ""
        self.failures = failures
        self.asked: list[tuple[int, str]] = []

    async def checkpoint(
        self, level: int, label: str, streams: dict[str, Any] | None = None
    ) -> checkpoint_pb2.CheckpointInfo | None:
        self.asked.append((level, label))
        self.streams = streams
        self.failures -= 1
        if self.failures >= 0:
            return None
        self.session_saved = self.session
        return checkpoint_pb2.CheckpointInfo(checkpoint_id=f"ckpt-{len(self.asked)}", sequence=self.session.sequence)


class Oversight:
    """Hands that capture, or say why not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[Any, ...]] = []

    async def capture(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(checkpoint_id="ckpt-9", state_bytes=1, stored_bytes=1, notes=["left out a socket"])


class Quiet:
    """A foreman whose workers rest."""

    def __init__(self, memory: Store) -> None:
        self.memory = memory
        self.asked: list[float] = []

    @asynccontextmanager
    async def quiet(self, seconds: float) -> AsyncIterator[None]:
        self.asked.append(seconds)
        yield


def keeper(store: Store, hands: Oversight | None = None, began: float = -3_600.0, **machine: Any) -> Keeper:
    """Begun so long ago from a checkpoint of event 400."""
    watch = SimpleNamespace(**{"memory_short": False, "disk_full": "", "paused": False, **machine})
    foreman, oversight = cast(Any, Quiet(store)), cast(Any, hands or Oversight())
    one = Keeper(Settings().checkpoint, foreman, cast(Any, SimpleNamespace(streams={})), oversight, cast(Any, watch))
    one._schedule = Schedule.begin(one._rules, began, sequence=400)
    return one


async def until_system_is_saved(one: Keeper) -> None:
    while one._system is not None and not one._system.done():
        await asyncio.sleep(0)


def test_a_system_checkpoint_is_the_state_and_then_the_files_with_it() -> None:
    async def scenario() -> None:
        store, hands = Store(), Oversight()
        goal = state.Goal("t", "do it", "/w")
        proposal = state.Proposal("eff-t-1", "act", {"tool": "search"})
        store.session = state.Session(sequence=500, tasks={"t": state.Task(goal, proposal=proposal)})
        one = keeper(store, hands)
        await one.save_if_due()
        await asyncio.sleep(0)
        await one.save_if_due()  # it goes on beside the rounds, and is not begun twice
        await until_system_is_saved(one)
        assert store.asked == [(checkpoint_pb2.LEVEL_SESSION, "event 500, before its files")]
        assert hands.asked == [(3, "ckpt-1", ["/w"], ["eff-t-1"], "event 500")]
        await one.save_if_due()
        assert len(hands.asked) == 1

    asyncio.run(scenario())


def test_a_system_checkpoint_that_is_given_up_for_another_session_ends_nothing_else() -> None:
    async def scenario() -> None:
        class Slow(Oversight):
            async def capture(self, *asked: Any) -> Any:
                self.asked.append(asked)
                await asyncio.Event().wait()

        store, hands = Store(), Slow()
        one = keeper(store, hands)
        await one.save_if_due()
        while not hands.asked:
            await asyncio.sleep(0)
        await one.save_on_stop()  # as before changing to another session
        await one.save_if_due()
        assert one._system is None or not one._system.cancelled()

    asyncio.run(scenario())


def test_during_a_pause_no_files_are_saved_unasked_for_they_may_be_those_of_another_time() -> None:
    async def scenario() -> None:
        store, hands = Store(), Oversight()
        one = keeper(store, hands, paused=True)
        await one.save_if_due()
        assert [level for level, _ in store.asked] == [Level.SESSION]
        assert (one._system, hands.asked) == (None, [])
        await one.save_now(Level.SYSTEM, "before restoring")
        assert len(hands.asked) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("why", [NotQuietError(reason="x"), CheckpointRefusedError(checkpoint_id="c", reason="away.")])
def test_files_that_cannot_be_saved_now_hold_nothing_else_up(why: Exception) -> None:
    async def scenario() -> None:
        store, hands = Store(), Oversight(why)
        one = keeper(store, hands)
        await one.save_if_due()
        await until_system_is_saved(one)
        store.session = state.Session(sequence=700)
        one._schedule = Schedule.begin(one._schedule.rules, -3_600.0, sequence=400)
        await one.save_if_due()
        assert [level for level, _ in store.asked] == [Level.SESSION, Level.SESSION]
        assert one.facts().system_free_at_seconds > 0
        assert ("away" in one.hindrance()) is isinstance(why, CheckpointRefusedError)
        assert AGAIN_SECONDS > 0
        assert len(hands.asked) == 1

    asyncio.run(scenario())


def test_a_person_gets_the_checkpoint_or_the_reason_why_not() -> None:
    async def scenario() -> None:
        one = keeper(Store())
        made = await one.save_now(Level.SYSTEM, "before I try something")
        assert (made.checkpoint_id, made.sequence, made.notes) == ("ckpt-9", 500, ("left out a socket",))
        with pytest.raises(NotSavedError, match="checkpointd is away"):
            store = Store(failures=1)
            store.unsaved = "checkpointd is away"
            await keeper(store).save_now(Level.SESSION, "now")
        store = Store(failures=1)
        store.session = state.Session()
        with pytest.raises(NothingToSaveError):
            await keeper(store).save_now(Level.SYSTEM, "now")

    asyncio.run(scenario())


def test_what_is_due_is_saved_once_and_a_failed_save_is_due_again_but_not_at_once() -> None:
    async def scenario() -> None:
        store = Store(failures=1)
        one = keeper(store, began=-3_600.0)
        one._system_free_at = float("inf")
        await one.save_if_due()
        await one.save_if_due()
        assert store.asked == [(checkpoint_pb2.LEVEL_SESSION, "event 500")]
        assert one._schedule.failures == 1
        one._schedule = Schedule.begin(one._schedule.rules, -3_600.0, sequence=400)
        await one.save_if_due()
        await one.save_if_due()
        assert len(store.asked) == 2
        await one.save_on_stop()
        assert len(store.asked) == 2

    asyncio.run(scenario())


def test_a_full_disk_is_told_as_the_reason_why_checkpoints_pause() -> None:
    async def scenario() -> None:
        store = Store()
        one = keeper(store, disk_full="disk 96% used")
        await one.save_if_due()
        assert store.asked == [(Level.MICRO, "event 500")]
        assert one.hindrance().startswith("session and system checkpoints pause (disk 96% used)")
        await one.save_on_stop()
        assert store.asked[1:] == [(Level.SESSION, "at stop")]

    asyncio.run(scenario())


def test_a_micro_checkpoint_has_what_is_being_written_and_no_other_level_needs_it() -> None:
    async def scenario() -> None:
        store = Store()
        one = keeper(store, disk_full="disk 96% used")  # so that only micro checkpoints are made
        cast(Any, one._mind).streams = {"req-t-1": Partial(3, ["a", "bc"]), "req-t-2": Partial()}
        await one.save_if_due()
        assert store.streams == {"req-t-1": {"tokens": 3, "text": "abc"}}
        session = state.decode(store.session.encode(store.streams))
        assert session == store.session
        cast(Any, one._mind).streams["req-t-1"].tokens = 9  # more was written: that is a change
        one._schedule = Schedule.begin(one._schedule.rules, -3_600.0, sequence=500)
        await one.save_if_due()
        assert len(store.asked) == 2

    asyncio.run(scenario())


def test_a_retried_task_that_ends_again_is_one_more_end() -> None:
    store = Store()
    one = keeper(store)
    goal = state.Goal("t", "do it", "/w")
    counts = []
    for now, run in (
        (state.Phase.RUNNING, 1),
        (state.Phase.SOLVED, 1),
        (state.Phase.QUEUED, 2),
        (state.Phase.FAILED, 2),
    ):
        task = state.Task(goal, phase=now, run=run)
        store.session = state.Session(sequence=1, tasks={"t": task})
        counts.append(one.facts().ended_tasks)
    assert counts == [0, 1, 1, 2]


def test_files_go_with_the_tasks_that_are_open_or_have_just_ended() -> None:
    def task(name: str, where: str, phase: state.Phase, ended: int = 0) -> state.Task:
        effect = state.Proposal(f"eff-{name}-1", "act", {"tool": "search"}) if phase is state.Phase.RUNNING else None
        observed = state.Observed(ended_unix_nanos=ended)
        return state.Task(state.Goal(name, "do it", where), phase=phase, proposal=effect, observed=observed)

    tasks = [
        task("a", "/one", state.Phase.RUNNING),
        task("b", "/one", state.Phase.QUEUED),
        task("c", "/two", state.Phase.SOLVED, ended=99 * HOUR),
        task("d", "/old", state.Phase.SOLVED, ended=1 * HOUR),
    ]
    session = state.Session(tasks={one.task_id: one for one in tasks})
    assert workspaces_of(session, 100 * HOUR) == ["/one", "/two"]
    assert open_effects(session) == ["eff-a-1"]


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
