"""What a task does next, given what it knows. Pure: no I/O; the clock comes in as an argument.

    GATHER -> ASK -> ACT -> CHECK -> COMMIT -> END (solved)
               ^      |       |
               |      v       v
               +-- ATTEMPT_FAILED (next sample, or feedback) -> REVERT -> END (failed)

A question or a proposal that is recorded but unanswered always comes first: that is what makes a killed agent
continue instead of starting over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfware_agent.state import ENDED, Phase, Proposal, Question, Stage, Task


@dataclass(frozen=True)
class Limits:
    """What the configuration allows a task."""

    max_steps: int
    max_reply_tokens: int
    temperature: float
    check_timeout_seconds: float
    context_tokens: int = 8192
    stall_timeout_seconds: float = 120.0


@dataclass(frozen=True)
class Ask:
    """Put a question to the model; `new` if it must be recorded first."""

    question: Question
    new: bool


@dataclass(frozen=True)
class Perform:
    """Propose an action to oversightd; `new` if it must be recorded first."""

    proposal: Proposal
    new: bool


@dataclass(frozen=True)
class FailAttempt:
    """Record that this attempt is over; `final`: no further one is allowed."""

    why: str
    final: bool


@dataclass(frozen=True)
class End:
    """Record how the task ended."""

    phase: Phase
    verified: bool
    sentence: str


Step = Ask | Perform | FailAttempt | End


def next_step(task: Task, limits: Limits, now_unix_nanos: int, branch: str = "") -> Step | None:
    """None when the task has ended. `branch`: the session's."""
    if task.phase in ENDED:
        return None
    if task.proposal is not None:
        return Perform(task.proposal, new=False)
    if task.question is not None:
        return Ask(task.question, new=False)
    match task.stage:
        case Stage.GATHER:
            path = task.gather_paths[len(task.gathered)]
            return _propose(task, branch, "gather", {"tool": "read_file", "path": path})
        case Stage.ASK:
            if why := over_budget(task, limits, now_unix_nanos):
                return FailAttempt(why, final=True)
            return Ask(_question(task, branch, limits), new=True)
        case Stage.ACT:
            assert task.intended is not None
            return _propose(task, branch, "act", task.intended)
        case Stage.CHECK:
            argv = list(task.goal.check)
            action = {"tool": "run_command", "argv": argv, "timeout_seconds": limits.check_timeout_seconds}
            return _propose(task, branch, "check", action)
        case Stage.ATTEMPT_FAILED:
            if task.attempt >= task.goal.max_attempts:
                return FailAttempt(f"not solved in {task.attempt} attempts; last: {task.sentence}", final=True)
            return FailAttempt(task.sentence, final=False)
        case Stage.REVERT:
            return _propose(task, branch, "revert", revert_actions(task)[task.reverted])
        case Stage.COMMIT:
            return _propose(task, branch, "commit", commit_actions(task)[task.committing])
        case Stage.END:
            return _end(task)


def over_budget(task: Task, limits: Limits, now_unix_nanos: int) -> str:
    """Why no further question may be asked, or ''."""
    goal = task.goal
    spent = task.prompt_tokens + task.completion_tokens
    if goal.budget_tokens and spent >= goal.budget_tokens:
        return f"the token budget of {goal.budget_tokens} is used up"
    elapsed_seconds = (now_unix_nanos - task.observed.started_unix_nanos) / 1e9
    if goal.budget_seconds and elapsed_seconds >= goal.budget_seconds:
        return f"the time budget of {goal.budget_seconds / 3600:g} h is used up"
    if not goal.sample and task.steps >= limits.max_steps:
        return f"the limit of {limits.max_steps} steps is reached"
    return ""


def revert_actions(task: Task) -> list[dict[str, Any]]:
    """Put every target file back as it was: failed work leaves nothing behind."""
    actions: list[dict[str, Any]] = []
    for one in task.originals:
        if one.exists and one.whole:
            actions.append({"tool": "write_file", "path": one.path, "content": one.content})
        elif not one.exists and task.goal.commit:
            actions.append({"tool": "run_command", "argv": ["git", "clean", "-f", "--", one.path]})
    return actions


def commit_actions(task: Task) -> list[dict[str, Any]]:
    """Stage, commit, ask for the id. Where targets are named, what else the operator has staged stays out of it."""
    targets = task.goal.target_paths
    stage = ["git", "add", "--", *targets] if targets else ["git", "add", "-A"]
    only = ["--", *targets] if targets else []
    subject = " ".join(task.goal.text.split())
    subject = subject if len(subject) <= 72 else f"{subject[:69]}..."
    message = f"{subject}\n\nTask {task.task_id}, attempt {task.attempt}, check passed: {' '.join(task.goal.check)}"
    return [
        {"tool": "run_command", "argv": stage},
        {"tool": "run_command", "argv": ["git", "commit", "-q", "-m", message, *only]},
        {"tool": "run_command", "argv": ["git", "rev-parse", "HEAD"]},
    ]


def effect_id(branch: str, task_id: str, number: int) -> str:
    """The name of a task's n-th action, for ever."""
    return f"eff-{branch}-{task_id}-{number}" if branch else f"eff-{task_id}-{number}"


def request_id(branch: str, task_id: str, number: int) -> str:
    """The name of a task's n-th question to the model."""
    return f"req-{branch}-{task_id}-{number}" if branch else f"req-{task_id}-{number}"


def _question(task: Task, branch: str, limits: Limits) -> Question:
    """The first try is greedy; every further one samples with its own seed."""
    number = task.requests + 1
    first = task.attempt == 1 or not task.goal.sample
    return Question(
        request_id=request_id(branch, task.task_id, number),
        seed=number,
        temperature=0.0 if first else limits.temperature,
    )


def _propose(task: Task, branch: str, purpose: str, action: dict[str, Any]) -> Perform:
    return Perform(Proposal(effect_id(branch, task.task_id, task.effects + 1), purpose, action), new=True)


def _end(task: Task) -> End:
    if task.verified:
        return End(Phase.SOLVED, True, f"solved in attempt {task.attempt}: the check passed")
    if task.out_of_budget:
        return End(Phase.FAILED, False, task.out_of_budget)
    return End(Phase.SOLVED, False, "the model says it is done; no check was given")
