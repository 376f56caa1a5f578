"""The pure heart of the agent: plan and fold, driven by a simulated model and a simulated world."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from selfware_agent import context, plan, replies, state
from selfware_agent.fold import UnknownEventError, fold
from selfware_agent.state import Goal, Phase, Session, Stage, Task, Turn

LIMITS = plan.Limits(max_steps=5, max_reply_tokens=100, temperature=0.8, check_timeout_seconds=60)
SECOND = 1_000_000_000

Reply = Callable[[Task], str]
World = Callable[[Task, dict[str, Any], str], dict[str, Any]]


class Simulation:
    """Runs a task to its end the way worker.py does, without any I/O; keeps every event."""

    def __init__(self, goal: Goal, reply: Reply, world: World) -> None:
        self.session = Session()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.reply, self.world, self.task_id = reply, world, goal.task_id
        self.record("GoalAccepted", goal=asdict(goal))

    @property
    def task(self) -> Task:
        return self.session.tasks[self.task_id]

    def record(self, kind: str, **payload: Any) -> None:
        payload = json.loads(json.dumps({"task_id": self.task_id, **payload}))
        self.events.append((kind, payload))
        self.session = fold(self.session, len(self.events), kind, payload, len(self.events) * SECOND)

    def step(self) -> bool:
        if self.task.phase is Phase.QUEUED:
            self.record("TaskStarted")
        step = plan.next_step(self.task, LIMITS, len(self.events) * SECOND)
        match step:
            case None:
                return False
            case plan.Ask(question, new):
                if new:
                    self.record("ModelRequested", **asdict(question))
                text = self.reply(self.task)
                self.record(
                    "ModelAnswered",
                    request_id=question.request_id,
                    text=text,
                    finish_reason="stop",
                    prompt_tokens=10,
                    completion_tokens=5,
                )
            case plan.Perform(proposal, new):
                if new:
                    self.record("ActionProposed", **asdict(proposal))
                outcome = self.world(self.task, proposal.action, proposal.purpose)
                self.record(
                    "ActionFinished",
                    effect_id=proposal.effect_id,
                    **{"state": "done", "sentence": "exited", "output": "", "whole": True, **outcome},
                )
            case plan.FailAttempt(why, final):
                self.record("AttemptFailed", why=why, final=final)
            case plan.End(phase, verified, sentence):
                self.record("TaskEnded", phase=str(phase), verified=verified, sentence=sentence)
        return True

    def run(self) -> Task:
        for _ in range(500):
            if not self.step():
                return self.task
        raise AssertionError("the task never ends")


def sample_goal(**changes: Any) -> Goal:
    goal = Goal(
        task_id="t1",
        text="make it 3",
        workspace="/w",
        check=("check",),
        max_attempts=4,
        target_paths=("a.py",),
        context_paths=("test_a.py",),
        commit=True,
        sample=True,
    )
    return replace(goal, **changes)


def write(content: str) -> str:
    return json.dumps({"tool": "write_file", "path": "a.py", "content": content})


class Disk:
    """A workspace with one file; the check passes when it holds `wanted`."""

    def __init__(self, wanted: str) -> None:
        self.files = {"a.py": "old", "test_a.py": "test"}
        self.wanted = wanted
        self.commits: list[str] = []
        self.effects: list[str] = []

    def __call__(self, task: Task, action: dict[str, Any], purpose: str) -> dict[str, Any]:
        assert task.proposal is not None
        assert task.proposal.effect_id not in self.effects, "an effect id was used twice"
        self.effects.append(task.proposal.effect_id)
        match action["tool"]:
            case "read_file":
                known = action["path"] in self.files
                return {"ok": known, "output": self.files.get(action["path"], "")}
            case "write_file":
                self.files[action["path"]] = action["content"]
                return {"ok": True}
        if purpose == "check":
            ok = self.files["a.py"].strip() == self.wanted
            return {"ok": ok, "output": "" if ok else f"expected {self.wanted}"}
        if action["argv"][:2] == ["git", "commit"]:
            self.commits.append(self.files["a.py"].strip())
        return {"ok": True, "output": "abc123\n" if action["argv"][1] == "rev-parse" else ""}


def test_sampling_goes_on_until_the_check_passes_and_commits_that_attempt() -> None:
    disk = Disk(wanted="3")
    simulation = Simulation(sample_goal(), lambda task: write(str(task.attempt)), disk)
    task = simulation.run()
    assert (task.phase, task.verified, task.attempt) == (Phase.SOLVED, True, 3)
    assert disk.commits == ["3"]
    assert task.observed.commit == "abc123"
    assert task.prompt_tokens == 30
    asked = [payload for kind, payload in simulation.events if kind == "ModelRequested"]
    assert [one["temperature"] for one in asked] == [0.0, 0.8, 0.8]
    assert len({one["seed"] for one in asked}) == 3


def test_a_sampled_file_ends_with_a_newline() -> None:
    disk = Disk(wanted="3")
    Simulation(sample_goal(), lambda _: write("3"), disk).run()
    assert disk.files["a.py"] == "3\n"


def test_when_no_attempt_passes_the_file_is_put_back_and_the_task_is_failed_not_solved() -> None:
    disk = Disk(wanted="never")
    task = Simulation(sample_goal(), lambda task: write(str(task.attempt)), disk).run()
    assert (task.phase, task.verified) == (Phase.FAILED, False)
    assert "not solved in 4 attempts" in task.sentence
    assert disk.files["a.py"] == "old"
    assert disk.commits == []


def test_a_failed_check_is_shown_once_fresh_samples_did_not_help() -> None:
    goal = sample_goal(max_attempts=context.FRESH_TRIES + 2)
    simulation = Simulation(goal, lambda task: write(str(task.attempt)), Disk(wanted="never"))
    prompts: dict[int, str] = {}
    while simulation.step():
        task = simulation.task
        if task.stage is Stage.ASK and task.question is None:
            prompts[task.attempt] = context.messages(task, 8000)[-1].content
    assert all(prompts[1] == prompts[number] for number in range(1, context.FRESH_TRIES + 1))
    assert "expected never" not in prompts[1]
    assert "expected never" in prompts[context.FRESH_TRIES + 1]


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"tool": "rm"}', '{"tool": "write_file", "path": "a.py"}'])
def test_an_unusable_reply_costs_an_attempt_and_nothing_else(text: str) -> None:
    disk = Disk(wanted="ok")
    replies_left = [text, write("ok")]
    task = Simulation(sample_goal(), lambda _: replies_left.pop(0), disk).run()
    assert (task.phase, task.attempt) == (Phase.SOLVED, 2)


@pytest.mark.parametrize("content", ["\\ud800", "a\\u0000b"])
def test_a_reply_that_no_file_can_hold_is_not_an_action(content: str) -> None:
    text = '{"tool": "write_file", "path": "a.py", "content": "' + content + '"}'
    assert isinstance(replies.parse(text, "stop"), replies.BadReply)


def test_a_reply_cut_at_the_token_limit_is_not_an_action() -> None:
    assert isinstance(replies.parse(write("x"), "length"), replies.BadReply)


def test_the_token_budget_ends_a_task() -> None:
    task = Simulation(sample_goal(budget_tokens=20), lambda _: write("x"), Disk(wanted="y")).run()
    assert task.phase is Phase.FAILED
    assert "token budget of 20" in task.sentence


def test_the_time_budget_ends_a_task() -> None:
    task = Simulation(sample_goal(budget_seconds=1), lambda _: write("x"), Disk(wanted="y")).run()
    assert "time budget" in task.sentence


def loop_goal(**changes: Any) -> Goal:
    return sample_goal(sample=False, target_paths=(), context_paths=(), commit=False, **changes)


def test_the_free_loop_feeds_outcomes_back_and_believes_only_the_check() -> None:
    disk = Disk(wanted="right")
    script = [
        '{"tool": "finish", "summary": "done"}',
        write("right"),
        '{"tool": "finish", "summary": "really done"}',
    ]
    simulation = Simulation(loop_goal(), lambda _: script.pop(0), disk)
    task = simulation.run()
    assert (task.phase, task.verified) == (Phase.SOLVED, True)
    checks = [p for kind, p in simulation.events if kind == "ActionProposed" and p["purpose"] == "check"]
    assert len(checks) == 2


def test_without_a_check_success_is_marked_as_not_verified() -> None:
    task = Simulation(loop_goal(check=()), lambda _: '{"tool": "finish", "summary": "ok"}', Disk("x")).run()
    assert (task.phase, task.verified) == (Phase.SOLVED, False)
    assert "no check was given" in task.sentence


def test_the_step_limit_ends_the_free_loop_after_one_last_check() -> None:
    disk = Disk(wanted="x")
    simulation = Simulation(loop_goal(), lambda _: write("x"), disk)
    task = simulation.run()
    assert (task.phase, task.verified) == (Phase.SOLVED, True)
    assert sum(kind == "ModelRequested" for kind, _ in simulation.events) == LIMITS.max_steps


def test_a_refused_or_unknown_action_is_an_observation_not_an_end() -> None:
    script = ['{"tool": "run_command", "script": "rm -rf /"}', '{"tool": "finish", "summary": ""}']

    def world(_task: Task, _action: dict[str, Any], purpose: str) -> dict[str, Any]:
        return {"ok": purpose == "check", "state": "refused", "sentence": "forbidden by policy"}

    simulation = Simulation(loop_goal(), lambda _: script.pop(0), world)
    while Stage.ASK is not simulation.task.stage or not simulation.task.turns:
        simulation.step()
    assert "forbidden by policy" in simulation.task.turns[-1].content
    assert simulation.run().phase is Phase.SOLVED


def test_killed_after_any_event_the_next_process_ends_in_the_same_state() -> None:
    """Every prefix of the journal, stored as a checkpoint and resumed, gives the same events and the same bytes."""
    whole = Simulation(sample_goal(), lambda task: write(str(task.attempt)), Disk(wanted="2"))
    whole.run()
    for cut in range(1, len(whole.events)):
        disk = Disk(wanted="2")
        resumed = Simulation(sample_goal(), lambda task: write(str(task.attempt)), disk)
        for kind, payload in whole.events[1:cut]:
            resumed.record(kind, **{key: value for key, value in payload.items() if key != "task_id"})
            if kind == "ActionFinished" and resumed.task.attempt == 2:
                disk.files["a.py"] = "2"
        resumed.session = state.decode(resumed.session.encode())
        resumed.run()
        assert resumed.events == whole.events
        assert resumed.session.encode() == whole.session.encode()


def test_the_digest_ignores_clock_times_and_commit_ids_only() -> None:
    simulation = Simulation(sample_goal(), lambda _: write("1"), Disk(wanted="1"))
    simulation.run()
    session, task = simulation.session, simulation.task
    later = replace(task, observed=replace(task.observed, ended_unix_nanos=99, commit="other"))
    assert replace(session, tasks={"t1": later}).digest() == session.digest()
    other = replace(task, completion_tokens=task.completion_tokens + 1)
    assert replace(session, tasks={"t1": other}).digest() != session.digest()


def test_a_gap_or_an_unknown_event_is_refused_not_guessed() -> None:
    simulation = Simulation(sample_goal(), lambda _: "", Disk(""))
    with pytest.raises(UnknownEventError):
        fold(simulation.session, 3, "TaskStarted", {"task_id": "t1"}, 0)
    with pytest.raises(UnknownEventError):
        fold(simulation.session, 2, "SomethingNew", {"task_id": "t1"}, 0)
    with pytest.raises(UnknownEventError):
        fold(simulation.session, 2, "TaskStarted", {"task_id": "t2"}, 0)


def test_a_retry_never_reuses_an_id() -> None:
    simulation = Simulation(sample_goal(max_attempts=1), lambda _: write("x"), disk := Disk(wanted="y"))
    simulation.run()
    simulation.record("TaskRetried")
    disk.wanted = "x"
    assert simulation.run().phase is Phase.SOLVED
    assert len(disk.effects) == len(set(disk.effects))


def test_the_conversation_is_bounded() -> None:
    turns: tuple[Turn, ...] = ()
    for number in range(500):
        turns = state.remember(turns, Turn("user", f"{number} " + "x" * 50_000))
    assert len(turns) == state.MAX_TURNS
    assert max(len(turn.content) for turn in turns) < 9_000
    assert turns[-1].content.startswith("499")


def test_an_ended_task_keeps_no_working_memory() -> None:
    simulation = Simulation(sample_goal(), lambda _: write("1"), Disk(wanted="1"))
    task = simulation.run()
    assert (task.gathered, task.turns, task.proposal, task.last_failure) == ((), (), None, "")


def test_a_target_too_long_to_put_back_is_never_overwritten() -> None:
    disk = Disk(wanted="1")

    def world(task: Task, action: dict[str, Any], purpose: str) -> dict[str, Any]:
        return {**disk(task, action, purpose), "whole": False}

    task = Simulation(sample_goal(), lambda _: write("1"), world).run()
    assert task.phase is Phase.FAILED
    assert disk.files["a.py"] == "old"
