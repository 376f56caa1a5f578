"""What a session is after somebody went back to a checkpoint, or began a second session from one. Pure.

The work after that checkpoint is undone, or is another session's; what is done instead must not be mistaken for it.
oversightd answers an effect id that it knows with what became of it, so everything new gets new ids: they carry the
session's branch, which is different after each restore and in each fork. An action that was proposed and had no
outcome yet is proposed again, under a new id, and judged again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from blake3 import blake3

from selfware_agent.plan import effect_id, request_id
from selfware_agent.state import Session, Task

MOST_ID_CHARS = 80  # of a task; as for those that people give


def branch_of(session_id: str, sequence: int) -> str:
    """8 hex digits that no other restore or fork has: (session, the event that says so)."""
    return blake3(f"{session_id}\n{sequence}".encode()).hexdigest()[:8]


def restored(then: Session, branch: str, sequence: int, later_nanos: int = 0) -> Session:
    """The session as it was, going on after event `sequence`, so much later."""
    tasks = {name: _renamed(_resumed(task, later_nanos), task.task_id, branch) for name, task in then.tasks.items()}
    return Session(tasks=tasks, sequence=sequence, branch=branch)


def forked(then: Session, session_id: str, workspaces: Mapping[str, str], later_nanos: int = 0) -> Session:
    """The same as another session, so much later, with its own task ids, in these directories instead."""
    branch = branch_of(session_id, then.sequence)
    tasks = {}
    for task in then.tasks.values():
        name = forked_id(task.task_id, session_id)
        goal = replace(task.goal, task_id=name, workspace=workspaces.get(task.goal.workspace, task.goal.workspace))
        tasks[name] = _renamed(replace(_resumed(task, later_nanos), goal=goal), name, branch)
    return Session(tasks=tasks, sequence=then.sequence, branch=branch)


def forked_id(task_id: str, session_id: str) -> str:
    """A task's name in a fork."""
    name = f"{task_id}.{session_id}"
    return name if len(name) <= MOST_ID_CHARS else f"{task_id[:60]}.{blake3(name.encode()).hexdigest()[:16]}"


def _resumed(task: Task, later_nanos: int) -> Task:
    """The time that was undone is not taken from the budget: else what is older than that fails as soon as it is
    back."""
    if task.ended or not task.observed.started_unix_nanos:
        return task
    started = task.observed.started_unix_nanos + max(0, later_nanos)
    return replace(task, observed=replace(task.observed, started_unix_nanos=started))


def _renamed(task: Task, task_id: str, branch: str) -> Task:
    proposal, question = task.proposal, task.question
    if proposal is not None:
        proposal = replace(proposal, effect_id=effect_id(branch, task_id, task.effects))
    if question is not None:
        question = replace(question, request_id=request_id(branch, task_id, task.requests))
    return replace(task, proposal=proposal, question=question)
