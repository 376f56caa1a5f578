"""A worker that stands still is replaced, then the process begins anew; but waiting is no standstill."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import pytest

from selfware_agent import fold, hands, mind, patience, plan, state
from selfware_agent.errors import NotQuietError, WorkerWedgedError
from selfware_agent.foreman import Foreman
from selfware_agent.memory import Memory
from selfware_agent.state import Goal, Phase
from selfware_agent.worker import Gate

LIMITS = plan.Limits(5, 100, 0.8, check_timeout_seconds=60, stall_timeout_seconds=0.0)


class Journal:
    """Memory without checkpointd."""

    def __init__(self) -> None:
        self.session = state.Session()
        self.session_id = "s"
        self.trouble = ""
        self.ended = None

    async def record(self, kind: str, **payload: Any) -> state.Session:
        number = self.session.sequence + 1
        self.session = fold.fold(self.session, number, kind, payload, number)
        return self.session

    async def settled(self) -> None:
        return


class Model:
    """Answers after `silences` questions that it never answers."""

    def __init__(self, silences: int) -> None:
        self.silences = silences
        self.asked: list[str] = []

    async def ask(self, _task: Any, question: state.Question, *rest: Any) -> mind.Answer:
        on_progress: Callable[[mind.Stream], None] = rest[-1]
        self.asked.append(question.request_id)
        on_progress(mind.Stream("the model reads the question"))
        if len(self.asked) <= self.silences:
            await asyncio.Event().wait()
        return mind.Answer('{"tool": "finish", "summary": "done"}', "stop", 1, 1)


class Doing:
    """Everything that is proposed works."""

    async def perform(self, *_given: Any) -> hands.Outcome:
        return hands.Outcome("done", True, "done", "")


def foreman(model: Model) -> Foreman:
    gate = Gate(asyncio.Semaphore(1))
    gate.open.set()
    one = Foreman(cast(Memory, Journal()), cast(mind.Mind, model), cast(hands.Hands, Doing()), gate, LIMITS)
    one.recovered.set()
    return one


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MARGIN_SECONDS", 0.0)


def test_a_wedged_worker_is_replaced_and_asks_the_same_question_again() -> None:
    async def scenario() -> None:
        model = Model(silences=1)
        one = foreman(model)
        await one.accept(Goal("t", "do it", "/w"))
        await one.round()
        await settle()
        assert one.wedged() == ["t"]
        assert "task t: a new worker begins the step again" in await one.revive("t")
        await settle()
        assert one.memory.session.tasks["t"].phase is Phase.SOLVED
        assert len(model.asked) == 2
        assert len(set(model.asked)) == 1
        assert one.wedged() == []

    asyncio.run(scenario())


def test_when_new_workers_do_not_help_the_process_is_given_up() -> None:
    async def scenario() -> None:
        one = foreman(Model(silences=99))
        await one.accept(Goal("t", "do it", "/w"))
        await one.round()
        with pytest.raises(WorkerWedgedError, match="task t stands still \\(the model reads the question\\)"):
            for _ in range(3):
                await settle()
                await one.revive("t")
        await one.stop()

    asyncio.run(scenario())


def test_a_worker_that_will_not_let_go_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfware_agent.foreman.CANCEL_SECONDS", 0.05)

    class Deaf(Model):
        async def ask(self, *given: Any) -> mind.Answer:
            given[-1](mind.Stream("the model reads the question"))
            for _ in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            raise AssertionError

    async def scenario() -> None:
        one = foreman(Deaf(0))
        await one.accept(Goal("t", "do it", "/w"))
        await one.round()
        await settle()
        with pytest.raises(WorkerWedgedError):
            await one.revive("t")

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_task_that_is_cancelled_while_its_worker_is_replaced_stays_cancelled() -> None:
    async def scenario() -> None:
        one = foreman(Model(silences=99))
        await one.accept(Goal("t", "do it", "/w"))
        await one.round()
        await settle()
        said, _ = await asyncio.gather(one.revive("t"), one.cancel("t", "enough"))
        await one.round()
        await settle()
        assert said == await one.revive("t") == "task t: it was cancelled meanwhile"
        assert one.memory.session.tasks["t"].phase is Phase.CANCELLED
        assert one.wedged() == []

    asyncio.run(scenario())


def test_workers_that_wait_for_checkpointd_are_not_wedged() -> None:
    async def scenario() -> None:
        one = foreman(Model(silences=1))
        await one.accept(Goal("t", "do it", "/w"))
        await one.round()
        await settle()
        one.memory.trouble = "waiting for checkpointd: it is gone"
        assert one.wedged() == []
        await one.stop()

    asyncio.run(scenario())


def test_a_person_a_queue_and_a_long_build_have_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "MARGIN_SECONDS", 60.0)
    assert patience.for_model(True, 120) == patience.for_action(False, {}, 60) == patience.UNLIMITED
    assert patience.for_model(False, 120) == 180
    assert patience.for_action(True, {"tool": "run_command", "timeout_seconds": 3600.0}, 60) == 3660
    assert patience.for_action(True, {"tool": "write_file"}, 60) == 660
    assert patience.for_action(True, {"tool": "run_command"}, 1800) == 1860


def test_an_action_that_is_held_back_by_a_pause_does_not_keep_a_checkpoint_from_being_made() -> None:
    async def scenario() -> None:
        class Held(Doing):
            def __init__(self) -> None:
                self.say: asyncio.Queue[hands.Waiting] = asyncio.Queue()

            async def perform(self, *given: Any) -> hands.Outcome:
                while True:
                    given[-1](await self.say.get())

        one, oversight = foreman(Model(0)), Held()
        one._hands = cast(hands.Hands, oversight)
        await one.accept(Goal("t", "do it", "/w", target_paths=("a",)))
        await one.round()
        oversight.say.put_nowait(hands.Waiting("running", runs=True))
        await settle()
        with pytest.raises(NotQuietError):
            async with one.quiet(0.0):
                pass
        oversight.say.put_nowait(hands.Waiting("waiting: paused by the operator", held=True))
        await settle()
        async with one.quiet(0.0):
            pass
        await one.stop()

    asyncio.run(scenario())


def test_while_workers_are_brought_to_rest_a_round_does_not_take_their_end_for_its_own() -> None:
    async def scenario() -> None:
        class Slow(Model):
            async def ask(self, task: Any, *rest: Any) -> mind.Answer:
                try:
                    await asyncio.Event().wait()
                finally:
                    if task.task_id == "slow":
                        await settle()
                raise AssertionError

        one = foreman(Slow(0))
        one.gate.slots = asyncio.Semaphore(2)
        for name in ("quick", "slow"):
            await one.accept(Goal(name, "do it", "/w"))
        await one.round()
        await settle()

        async def rest() -> None:
            async with one.at_rest():
                pass

        resting = asyncio.create_task(rest())
        while not resting.done():
            await one.round()
            await asyncio.sleep(0)
        await resting
        await one.stop()

    asyncio.run(scenario())


def test_no_worker_is_revived_while_there_are_to_be_none() -> None:
    async def scenario() -> None:
        one = foreman(Model(silences=9))
        await one.accept(Goal("t", "do it", "/w"))
        await one.round()
        await settle()
        reviving = asyncio.create_task(one.revive("t"))
        await asyncio.sleep(0)
        async with one.at_rest():
            await settle()
            assert "worker t" not in {task.get_name() for task in asyncio.all_tasks()}
        await reviving

    asyncio.run(scenario())
