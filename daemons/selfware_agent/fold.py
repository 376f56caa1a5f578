"""How each event changes the session: the only place where state moves. Pure.

Event kinds and their payloads (every payload has `task_id`):

    GoalAccepted    the goal's fields              a person's goal is durable
    TaskStarted     -                              a worker took it
    ModelRequested  request_id seed temperature    recorded before the model is asked
    ModelAnswered   request_id text finish_reason prompt_tokens completion_tokens
    ModelFailed     request_id why                 the engine refused the request (too long, bad schema)
    ActionProposed  effect_id purpose action       recorded before oversightd is asked
    ActionFinished  effect_id state ok sentence output whole
    AttemptFailed   why final                      this try is over; `final`: so is the task
    TaskEnded       phase verified sentence
    TaskCancelled   reason
    TaskRetried     -                              a person wants it worked on again

One more is not folded, because it needs a checkpoint: what `memory` does with it.

    SessionRestored checkpoint_id branch           a person went back: from here on the session is what that
                                                   checkpoint holds (see `rewinding`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from selfware_agent import replies
from selfware_agent.plan import commit_actions, revert_actions
from selfware_agent.shorten import shorten
from selfware_agent.state import (
    File,
    Goal,
    Observed,
    Phase,
    Proposal,
    Question,
    Session,
    Stage,
    Task,
    Turn,
    remember,
)

MAX_FAILURE_CHARS = 2000
MAX_FILE_CHARS = 24_000

Payload = dict[str, Any]


class UnknownEventError(ValueError):
    """An event of a kind or order that this version does not understand."""


def fold(session: Session, sequence: int, kind: str, payload: Payload, time_unix_nanos: int) -> Session:
    """The session after one more event. Raises UnknownEventError rather than guessing."""
    if sequence != session.sequence + 1:
        raise UnknownEventError(f"event {sequence} ({kind}) does not follow event {session.sequence}")
    task_id = payload["task_id"]
    if kind == "GoalAccepted":
        task = _accepted(payload, time_unix_nanos)
    else:
        handler, known = _HANDLERS.get(kind), session.tasks.get(task_id)
        if handler is None or known is None:
            raise UnknownEventError(f"event {sequence} ({kind}, task {task_id}) is not understood")
        task = handler(known, payload, time_unix_nanos)
    return replace(session, tasks={**session.tasks, task_id: task}, sequence=sequence)


def _accepted(payload: Payload, now: int) -> Task:
    fields = dict(payload["goal"])
    for key in ("check", "context_paths", "target_paths"):
        fields[key] = tuple(fields[key])
    return Task(goal=Goal(**fields), observed=Observed(accepted_unix_nanos=now))


def _started(task: Task, _payload: Payload, now: int) -> Task:
    stage = Stage.GATHER if task.gather_paths else Stage.ASK
    observed = replace(task.observed, started_unix_nanos=now)
    return replace(task, phase=Phase.RUNNING, stage=stage, sentence="started", observed=observed)


def _requested(task: Task, payload: Payload, _now: int) -> Task:
    question = Question(payload["request_id"], payload["seed"], payload["temperature"])
    return replace(
        task,
        question=question,
        requests=task.requests + 1,
        steps=task.steps + 1,
        sentence=f"asked the model (attempt {task.attempt}, step {task.steps + 1})",
    )


def _answered(task: Task, payload: Payload, _now: int) -> Task:
    task = replace(
        task,
        question=None,
        prompt_tokens=task.prompt_tokens + payload["prompt_tokens"],
        completion_tokens=task.completion_tokens + payload["completion_tokens"],
        turns=remember(task.turns, Turn("assistant", payload["text"])) if not task.goal.sample else (),
    )
    action = replies.parse(payload["text"], payload["finish_reason"])
    if isinstance(action, replies.BadReply):
        return _unusable(task, action.problem)
    if action["tool"] == "finish":
        stage = Stage.CHECK if task.goal.check else Stage.END
        return replace(task, stage=stage, sentence=f"the model finished: {shorten(action['summary'], 200)}")
    if task.goal.sample and not action["content"].endswith("\n"):
        action["content"] += "\n"  # small models forget it, and every tool that reads the file wants it
    return replace(task, stage=Stage.ACT, intended=action, sentence=f"the model wants {describe(action)}")


def _model_failed(task: Task, payload: Payload, _now: int) -> Task:
    return _unusable(replace(task, question=None), payload["why"])


def _unusable(task: Task, problem: str) -> Task:
    if task.goal.sample:
        return replace(task, stage=Stage.ATTEMPT_FAILED, sentence=problem)
    turns = remember(task.turns, Turn("user", f"That was not usable: {problem}. Answer with one valid JSON object."))
    return replace(task, stage=Stage.ASK, turns=turns, sentence=problem)


def _proposed(task: Task, payload: Payload, _now: int) -> Task:
    proposal = Proposal(payload["effect_id"], payload["purpose"], payload["action"])
    sentence = f"{payload['purpose']}: {describe(payload['action'])}"
    return replace(task, proposal=proposal, intended=None, effects=task.effects + 1, sentence=sentence)


def _finished(task: Task, payload: Payload, _now: int) -> Task:
    proposal = task.proposal
    if proposal is None or proposal.effect_id != payload["effect_id"]:
        raise UnknownEventError(f"effect {payload['effect_id']} finished but was not proposed")
    task = replace(task, proposal=None)
    return _AFTER[proposal.purpose](task, proposal, payload)


def _after_gather(task: Task, proposal: Proposal, payload: Payload) -> Task:
    path = proposal.action["path"]
    content = payload["output"] if payload["ok"] else ""
    file = File(path, content, exists=bool(payload["ok"]), whole=bool(payload["whole"]))
    task = replace(task, gathered=(*task.gathered, file), sentence=f"read {path}")
    if len(task.gathered) < len(task.gather_paths):
        return replace(task, stage=Stage.GATHER)
    if task.goal.sample and any(one.exists and not one.whole for one in task.originals):
        problem = "a target file is too long or not UTF-8, so it cannot be rewritten whole; use the loop strategy"
        return replace(task, stage=Stage.END, out_of_budget=problem)
    return replace(task, stage=Stage.ASK)


def _after_act(task: Task, proposal: Proposal, payload: Payload) -> Task:
    outcome = f"{describe(proposal.action)}: {payload['sentence']}"
    if task.goal.sample:
        if payload["ok"]:
            return replace(task, stage=Stage.CHECK, sentence=outcome)
        return replace(task, stage=Stage.ATTEMPT_FAILED, sentence=outcome)
    text = f"{outcome}\n{payload['output']}" if payload["output"] else outcome
    return replace(task, stage=Stage.ASK, turns=remember(task.turns, Turn("user", text)), sentence=outcome)


def _after_check(task: Task, _proposal: Proposal, payload: Payload) -> Task:
    if payload["ok"]:
        stage = Stage.COMMIT if task.goal.commit else Stage.END
        return replace(task, verified=True, stage=stage, sentence="the check passed")
    failure = shorten(payload["output"], MAX_FAILURE_CHARS)
    sentence = f"the check failed: {payload['sentence']}"
    task = replace(task, last_failure=failure, sentence=sentence)
    if task.goal.sample or task.out_of_budget:
        return replace(task, stage=Stage.END if task.out_of_budget else Stage.ATTEMPT_FAILED)
    return replace(task, stage=Stage.ASK, turns=remember(task.turns, Turn("user", f"{sentence}\n{failure}")))


def _after_revert(task: Task, _proposal: Proposal, _payload: Payload) -> Task:
    reverted = task.reverted + 1
    if reverted < len(revert_actions(task)):
        return replace(task, reverted=reverted, stage=Stage.REVERT)
    return replace(task, reverted=0, stage=Stage.END if task.out_of_budget else Stage.ASK)


def _after_commit(task: Task, _proposal: Proposal, payload: Payload) -> Task:
    done = task.committing + 1
    observed = task.observed
    if done == len(commit_actions(task)) and payload["ok"]:
        observed = replace(observed, commit=payload["output"].strip())
    stage = Stage.COMMIT if done < len(commit_actions(task)) and payload["ok"] else Stage.END
    sentence = "committed" if payload["ok"] else f"nothing committed: {payload['sentence']}"
    return replace(task, committing=done, stage=stage, sentence=sentence, observed=observed)


def _attempt_failed(task: Task, payload: Payload, _now: int) -> Task:
    final = payload["final"]
    task = replace(task, sentence=f"attempt {task.attempt} failed: {payload['why']}", intended=None)
    if not final:
        return replace(task, attempt=task.attempt + 1, steps=0, stage=Stage.ASK)
    task = replace(task, out_of_budget=payload["why"])
    if task.goal.sample:
        return replace(task, stage=Stage.REVERT if revert_actions(task) else Stage.END)
    # The free loop may have finished the work without saying so: the check has the last word.
    return replace(task, stage=Stage.CHECK if task.goal.check else Stage.END)


def _ended(task: Task, payload: Payload, now: int) -> Task:
    return _bare(
        replace(task, verified=payload["verified"], sentence=payload["sentence"]), Phase(payload["phase"]), now
    )


def _cancelled(task: Task, payload: Payload, now: int) -> Task:
    return _bare(replace(task, sentence=f"cancelled: {payload['reason']}"), Phase.CANCELLED, now)


def _bare(task: Task, phase: Phase, now: int) -> Task:
    """An ended task keeps its result and drops its working memory; the journal has the rest."""
    observed = replace(task.observed, ended_unix_nanos=now)
    return replace(
        task,
        phase=phase,
        stage=Stage.END,
        observed=observed,
        gathered=(),
        turns=(),
        question=None,
        proposal=None,
        intended=None,
        last_failure="",
    )


def _retried(task: Task, _payload: Payload, now: int) -> Task:
    """Counters that make ids go on: an id is never used twice."""
    observed = Observed(accepted_unix_nanos=now)
    return Task(goal=task.goal, run=task.run + 1, effects=task.effects, requests=task.requests, observed=observed)


def describe(action: Payload) -> str:
    """An action in a few words for people; the text may be hostile, so whoever prints it escapes it."""
    tool = action["tool"]
    if tool == "run_command":
        return "run " + shorten(" ".join(action["argv"]) if "argv" in action else action["script"], 120)
    if tool in ("read_file", "write_file", "edit_file"):
        return f"{tool.removesuffix('_file')} {action['path']}"
    if tool == "search":
        return f"search {shorten(action['pattern'], 80)}"
    return str(tool)


_AFTER: dict[str, Callable[[Task, Proposal, Payload], Task]] = {
    "gather": _after_gather,
    "act": _after_act,
    "check": _after_check,
    "revert": _after_revert,
    "commit": _after_commit,
}

_HANDLERS: dict[str, Callable[[Task, Payload, int], Task]] = {
    "TaskStarted": _started,
    "ModelRequested": _requested,
    "ModelAnswered": _answered,
    "ModelFailed": _model_failed,
    "ActionProposed": _proposed,
    "ActionFinished": _finished,
    "AttemptFailed": _attempt_failed,
    "TaskEnded": _ended,
    "TaskCancelled": _cancelled,
    "TaskRetried": _retried,
}
