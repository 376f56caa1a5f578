"""When the next checkpoint of each level is due. Pure: times come in as seconds on one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

from selfware_common.settings import Checkpoint


@dataclass(frozen=True)
class Saved:
    """When each level was last saved, and at which event."""

    micro_seconds: float
    session_seconds: float
    sequence: int = 0
    ended_tasks: int = 0


def due(saved: Saved, now_seconds: float, sequence: int, ended_tasks: int, settings: Checkpoint) -> str:
    """The level to save now ("task", "session", "micro"), or ''. Nothing is due when nothing changed."""
    if not settings.enabled or sequence == saved.sequence:
        return ""
    levels = settings.levels
    if levels.task.enabled and levels.task.on_completion and ended_tasks > saved.ended_tasks:
        return "task"
    many_changes = sequence - saved.sequence >= settings.changes_threshold
    old_enough = now_seconds - saved.session_seconds >= settings.min_interval_seconds
    session_due = now_seconds - saved.session_seconds >= levels.session.interval_seconds
    if levels.session.enabled and (session_due or (many_changes and old_enough)):
        return "session"
    if levels.micro.enabled and now_seconds - saved.micro_seconds >= levels.micro.interval_seconds:
        return "micro"
    return ""


def after(saved: Saved, level: str, now_seconds: float, sequence: int, ended_tasks: int) -> Saved:
    """The record after a save of `level`."""
    saved = replace(saved, micro_seconds=now_seconds, sequence=sequence, ended_tasks=ended_tasks)
    return replace(saved, session_seconds=now_seconds) if level != "micro" else saved
