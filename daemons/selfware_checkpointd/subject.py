"""What a checkpoint is of, and what is to be said of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from selfware_checkpointd.manifest import Level


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a checkpoint can be restored; problem is one sentence if not. ``unknown``: some of it lies where it
    cannot be read now."""

    checkpoint_id: str
    intact: bool
    problem: str
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What a checkpoint is of."""

    session_id: str
    level: Level
    sequence: int
    label: str
    now_unix_nanos: int
