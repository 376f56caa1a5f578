"""The rows of the ledger as values: an effect, an approval, the operator's pause. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.StrEnum):
    """Where an effect stands in the ledger."""

    WAITING = "waiting"  # for a person
    HELD = "held"  # allowed, but not begun: the operator paused, or we were killed in between
    INTENT = "intent"  # it may have begun: only the effect directory knows
    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


ENDED = frozenset({State.DONE, State.REFUSED, State.UNKNOWN})


@dataclass(frozen=True)
class EffectRecord:
    """One action and all that is known of it."""

    effect_id: str
    digest: str
    state: State
    kind: str
    approval_class: str
    summary: str
    canonical: str
    workspace: str
    session_id: str
    task_id: str
    reason: str
    rule: str
    created_unix_nanos: int
    approval: int = 0  # number of the question that was asked last
    intent_unix_nanos: int = 0
    ended_unix_nanos: int = 0
    sentence: str = ""
    ok: int = 0
    exit_status: int = 0
    timed_out: int = 0
    output: str = ""
    output_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How an effect ended."""

    state: State
    sentence: str
    ok: bool = False
    exit_status: int = 0
    timed_out: bool = False
    output: str = ""
    output_bytes: int = 0
    seconds: float = 0.0


class Answer(enum.StrEnum):
    """Where a question stands."""

    PENDING = "pending"
    APPROVED = "approved"  # not begun yet
    USED = "used"  # approved, and the one run it was good for has begun
    REJECTED = "rejected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"  # by a restore to before it was asked


@dataclass(frozen=True)
class Approval:
    """A question to a person about one effect, bound to its digest."""

    number: int
    effect_id: str
    digest: str
    state: Answer
    created_unix_nanos: int
    expires_unix_nanos: int
    decided_unix_nanos: int = 0
    decided_by_uid: int = -1
    decided_by_pid: int = -1
    note: str = ""

    @property
    def approval_id(self) -> str:
        """What people type."""
        return f"appr-{self.number}"


@dataclass(frozen=True)
class Control:
    """What the operator wants, and what is being gone back to."""

    paused: bool  # because somebody said so
    reason: str
    restoring: str = ""  # the checkpoint of a restore that has begun and not ended, whoever leads it
    undone_by: str = ""  # what that restore saved first, once it has

    @property
    def still(self) -> bool:
        """Whether nothing may begin."""
        return self.paused or bool(self.restoring)

    @property
    def why(self) -> str:
        """What is said of it."""
        return f"restoring {self.restoring}" if self.restoring else self.reason
