"""What the agent knows, as frozen data, and how each event changes it: state = fold(events).

Everything here is pure: no clock, no I/O. Two runs with the same events have byte-identical states. What legitimately
differs between two runs of the same work (clock times, commit ids) lives in `Observed` and is left out of
`Session.digest`.

The conversation a task keeps is bounded (MAX_TURNS, MAX_TEXT); the full history stays in the journal.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import blake3
import orjson

from selfware_agent.shorten import MAX_TEXT_CHARS, shorten

MAX_TURNS = 60


class Phase(enum.StrEnum):
    """Where a task is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SOLVED = "solved"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Phase.SOLVED, Phase.FAILED, Phase.CANCELLED})


class Stage(enum.StrEnum):
    """What a running task does next; see plan.py for the picture."""

    GATHER = "gather"
    ASK = "ask"
    ACT = "act"
    CHECK = "check"
    ATTEMPT_FAILED = "attempt_failed"
    REVERT = "revert"
    COMMIT = "commit"
    END = "end"


@dataclass(frozen=True)
class Goal:
    """What a person asked for; never changes."""

    task_id: str
    text: str
    workspace: str
    check: tuple[str, ...] = ()
    priority: int = 0
    budget_tokens: int = 0
    budget_seconds: float = 0.0
    max_attempts: int = 1
    context_paths: tuple[str, ...] = ()
    target_paths: tuple[str, ...] = ()
    commit: bool = False
    sample: bool = False  # the narrowed write-and-check strategy instead of the free loop


@dataclass(frozen=True)
class File:
    """One file as it was when the task began."""

    path: str
    content: str
    exists: bool
    whole: bool  # content is all of it, so it can be put back


@dataclass(frozen=True)
class Turn:
    """One message of the task's conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Question:
    """A model request that has been recorded and not yet answered."""

    request_id: str
    seed: int
    temperature: float


@dataclass(frozen=True)
class Proposal:
    """An action that has been recorded and whose outcome is not known yet."""

    effect_id: str
    purpose: str
    action: dict[str, Any]


@dataclass(frozen=True)
class Observed:
    """What may differ between two runs of the same work; not part of the digest."""

    accepted_unix_nanos: int = 0
    started_unix_nanos: int = 0
    ended_unix_nanos: int = 0
    commit: str = ""


@dataclass(frozen=True)
class Task:
    """One goal being worked on."""

    goal: Goal
    phase: Phase = Phase.QUEUED
    stage: Stage = Stage.GATHER
    run: int = 1  # counts retries asked for by a person
    attempt: int = 1
    steps: int = 0  # model calls of this attempt
    effects: int = 0  # actions proposed so far; the source of effect ids
    requests: int = 0  # model requests so far; the source of request ids
    gathered: tuple[File, ...] = ()
    turns: tuple[Turn, ...] = ()
    intended: dict[str, Any] | None = None  # what the model wants, not yet proposed
    question: Question | None = None
    proposal: Proposal | None = None
    reverted: int = 0  # files put back so far in this revert
    committing: int = 0  # steps of the commit done
    last_failure: str = ""
    out_of_budget: str = ""
    verified: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    sentence: str = "queued"
    observed: Observed = field(default_factory=Observed)

    @property
    def task_id(self) -> str:
        return self.goal.task_id

    @property
    def ended(self) -> bool:
        return self.phase in ENDED

    @property
    def gather_paths(self) -> tuple[str, ...]:
        """Targets first, then context, each once."""
        return tuple(dict.fromkeys((*self.goal.target_paths, *self.goal.context_paths)))

    @property
    def originals(self) -> tuple[File, ...]:
        """The target files as they were."""
        return tuple(one for one in self.gathered if one.path in self.goal.target_paths)


@dataclass(frozen=True)
class Session:
    """Everything the agent knows."""

    tasks: dict[str, Task] = field(default_factory=dict)
    sequence: int = 0
    branch: str = ""  # part of every new id, so that work that was undone and work in its place have different ids

    def encode(self, streams: Mapping[str, Any] | None = None) -> bytes:
        """Canonical JSON; decode() gives an equal session. `streams`: what the model has written of replies under way,
        for people who look at the checkpoint; no part of the session."""
        plain = _plain(self)
        if streams:
            plain["streams"] = streams
        return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)

    def digest(self) -> str:
        """BLAKE3 over everything but `observed`, hex: equal for two runs that did the same work."""
        plain = _plain(self)
        for task in plain["tasks"].values():
            task.pop("observed")
        return blake3.blake3(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()


def decode(data: bytes) -> Session:
    """The inverse of Session.encode; raises ValueError, KeyError or TypeError on foreign bytes."""
    plain = orjson.loads(data)
    tasks = {name: _task(value) for name, value in plain["tasks"].items()}
    return Session(tasks=tasks, sequence=plain["sequence"], branch=plain.get("branch", ""))


def remember(turns: tuple[Turn, ...], *new: Turn) -> tuple[Turn, ...]:
    """Append to a conversation, bounded: the oldest turns go first, long ones lose their middle."""
    short = tuple(Turn(turn.role, shorten(turn.content, MAX_TEXT_CHARS)) for turn in new)
    return (*turns, *short)[-MAX_TURNS:]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, enum.StrEnum) else value


def _task(plain: dict[str, Any]) -> Task:
    goal = dict(plain.pop("goal"))
    for key in ("check", "context_paths", "target_paths"):
        goal[key] = tuple(goal[key])
    question, proposal = plain.pop("question"), plain.pop("proposal")
    return Task(
        goal=Goal(**goal),
        phase=Phase(plain.pop("phase")),
        stage=Stage(plain.pop("stage")),
        gathered=tuple(File(**one) for one in plain.pop("gathered")),
        turns=tuple(Turn(**one) for one in plain.pop("turns")),
        question=Question(**question) if question else None,
        proposal=Proposal(**proposal) if proposal else None,
        observed=Observed(**plain.pop("observed")),
        **plain,
    )
