"""After a restore and in a fork nothing new has an old name, and all that was known is known."""

from __future__ import annotations

from dataclasses import replace

from selfware_agent import plan, rewinding, state

LIMITS = plan.Limits(max_steps=5, max_reply_tokens=100, temperature=0.8, check_timeout_seconds=60)
GOAL = state.Goal("task-1", "mend it", "/srv/repo", check=("make", "test"))
ACTING = state.Task(
    GOAL,
    phase=state.Phase.RUNNING,
    stage=state.Stage.ACT,
    effects=3,
    requests=2,
    proposal=state.Proposal("eff-task-1-3", "act", {"tool": "search"}),
    turns=(state.Turn("user", "hello"),),
)
ASKING = replace(ACTING, proposal=None, question=state.Question("req-task-1-2", 2, 0.0))
DONE = state.Task(replace(GOAL, task_id="task-0"), phase=state.Phase.SOLVED, effects=9)
THEN = state.Session(tasks={"task-0": DONE, "task-1": ACTING}, sequence=40)


def test_what_had_no_outcome_is_done_again_under_a_new_name() -> None:
    branch = rewinding.branch_of("main", 70)
    now = rewinding.restored(THEN, branch, 70)
    assert (now.sequence, now.branch) == (70, branch)
    assert now.tasks["task-0"] == DONE
    proposal = now.tasks["task-1"].proposal
    assert proposal is not None
    assert proposal.effect_id == f"eff-{branch}-task-1-3"
    assert replace(now.tasks["task-1"], proposal=ACTING.proposal) == ACTING
    step = plan.next_step(now.tasks["task-1"], LIMITS, 0, branch)
    assert step == plan.Perform(proposal, new=False)
    asked = rewinding.restored(replace(THEN, tasks={"task-1": ASKING}), branch, 70).tasks["task-1"].question
    assert asked is not None
    assert asked.request_id == f"req-{branch}-task-1-2"


def test_time_that_was_undone_is_not_taken_from_the_budget() -> None:
    second = 10**9
    started = state.Observed(accepted_unix_nanos=1 * second, started_unix_nanos=2 * second)
    goal = replace(GOAL, budget_seconds=100.0)
    asks = replace(ACTING, goal=goal, proposal=None, stage=state.Stage.ASK, observed=started)
    then = state.Session(tasks={"task-0": DONE, "task-1": asks}, sequence=40)
    day = 24 * 3600 * second  # after the checkpoint, which is of second 10
    for now in (rewinding.restored(then, "b", 70, day), rewinding.forked(then, "try", {}, day)):
        (task,) = [one for one in now.tasks.values() if not one.ended]
        assert plan.over_budget(task, LIMITS, 10 * second + day) == ""
        assert plan.over_budget(task, LIMITS, 101 * second + day) == ""
        assert "time budget" in plan.over_budget(task, LIMITS, 102 * second + day)
    assert rewinding.restored(then, "b", 70, -day).tasks["task-1"].observed == started  # a clock that was set back


def test_new_names_carry_the_branch_and_no_two_branches_are_the_same() -> None:
    task = replace(ACTING, proposal=None, intended={"tool": "search", "pattern": "x"})
    step = plan.next_step(task, LIMITS, 0, "ab12cd34")
    assert isinstance(step, plan.Perform)
    assert step.proposal.effect_id == "eff-ab12cd34-task-1-4"
    branches = {rewinding.branch_of(session, number) for session in ("main", "other") for number in range(200)}
    assert len(branches) == 400


def test_a_fork_has_its_own_tasks_in_its_own_directories() -> None:
    fork = rewinding.forked(THEN, "try-2", {"/srv/repo": "/srv/repo-try-2"})
    assert sorted(fork.tasks) == ["task-0.try-2", "task-1.try-2"]
    task = fork.tasks["task-1.try-2"]
    assert (task.task_id, task.goal.workspace, task.goal.check) == ("task-1.try-2", "/srv/repo-try-2", GOAL.check)
    assert task.turns == ACTING.turns
    assert task.proposal is not None
    assert task.proposal.effect_id == f"eff-{fork.branch}-task-1.try-2-3"
    assert fork.sequence == 40


def test_a_name_that_would_be_too_long_is_cut_and_stays_its_own() -> None:
    long = "t" * 80
    first, second = rewinding.forked_id(long, "a"), rewinding.forked_id(long, "b")
    assert len(first) <= rewinding.MOST_ID_CHARS
    assert first != second
    assert len(plan.effect_id("ab12cd34", first, 10**9)) <= 128  # what oversightd takes


def test_a_state_from_before_there_were_branches_is_read() -> None:
    old = THEN.encode().replace(b'"branch":"",', b"")
    assert b"branch" not in old
    assert state.decode(old) == THEN
