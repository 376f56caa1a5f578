"""When a checkpoint is due, and of which level: enough of them that little work is repeated, few enough that saving
never becomes the work.

    micro    30 s     stream position, partial output       system   15 min   with the workspace tree
    session  5 min    the whole state; also on stop         task              whenever a task ended

A level counts from its schedule, not from the end of its last save, so that the cadence does not drift under load. What
is due together becomes one checkpoint, of the largest level. Nothing is due when nothing changed.

Owns no file, no clock and no task: times come in as seconds on one monotonic clock, so the wall clock may jump as it
likes. Decides only; whoever calls does the saving and reports it with `saved` or `failed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from selfware_common.settings import Checkpoint

NEVER = float("inf")
SAVING_SHARE = 0.05
"""Most of the time that may go into saving; a save that took a second is followed by 19 without one."""
TOGETHER_SHARE = 0.2
"""A save this part of an interval early or late still answers the planned time, and the plan stays; one that is
further off begins a new plan. Twice the 10 % within which the cadence must stay, for single saves scatter more."""
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
"""After a failed save: 1, 2, 4 ... 60 s. checkpointd is back from a restart within the first; the last keeps a full
disk from being asked all the time."""


class Level(IntEnum):
    """Why a checkpoint is made, small to large; numbered as in protos/checkpoint.proto."""

    MICRO = 1
    TASK = 2
    SESSION = 3
    SYSTEM = 4


PAUSED_WHEN_FULL = frozenset({Level.SESSION, Level.SYSTEM})


@dataclass(frozen=True)
class Facts:
    """What a decision looks at: how far the work is, and how the machine is."""

    sequence: int  # the last event of the session
    ended_tasks: int = 0  # so far; one that was retried and ended again counts twice
    streamed_tokens: int = 0  # of replies under way; a micro checkpoint is about them
    memory_short: bool = False  # the process may be killed soon
    disk_full: str = ""  # why there is hardly room, "disk 96% used"; empty: there is room
    system_free_at_seconds: float = -NEVER  # no system checkpoint before: one is being made, or could not be made now


@dataclass(frozen=True)
class Rules:
    """[checkpoint] and [checkpoint.levels], made valid once. Seconds, and events."""

    intervals: Mapping[Level, float]  # only the levels that are made; for TASK it says nothing
    least_seconds: float
    most_seconds: float
    changes_threshold: int
    adaptive: bool

    @classmethod
    def of(cls, settings: Checkpoint, possible: Iterable[Level] = Level) -> Rules:
        """From selfware.toml; `possible` are the levels that the caller is able to fill.

        The longest interval holds for micro and session. A system checkpoint may come less often, as the session
        checkpoints in between keep that promise.
        """
        least, levels = settings.min_interval_seconds, settings.levels
        most = max(least, settings.max_interval_seconds)
        wanted = {
            Level.MICRO: (levels.micro.enabled, min(most, levels.micro.interval_seconds)),
            Level.TASK: (levels.task.enabled and levels.task.on_completion, 0.0),
            Level.SESSION: (
                levels.session.enabled,
                min(most, settings.interval_seconds, levels.session.interval_seconds),
            ),
            Level.SYSTEM: (levels.system.enabled, levels.system.interval_seconds),
        }
        made = set(possible) if settings.enabled else set()
        return cls(
            intervals={
                level: max(least, seconds) for level, (enabled, seconds) in wanted.items() if enabled and level in made
            },
            least_seconds=least,
            most_seconds=most,
            changes_threshold=settings.changes_threshold,
            adaptive=settings.adaptive,
        )

    def interval(self, level: Level, facts: Facts) -> float:
        """Seconds between two checkpoints of a level, as things stand: half as long while memory is short."""
        seconds = self.intervals[level]
        return max(self.least_seconds, seconds / 2) if self.adaptive and facts.memory_short else seconds


@dataclass(frozen=True)
class Mark:
    """The newest checkpoint of a level, or of a larger one that covered it."""

    planned_seconds: float  # the planned time it answered; the next interval begins here
    began_seconds: float  # when it was really begun
    sequence: int
    ended_tasks: int
    streamed_tokens: int = 0


@dataclass(frozen=True)
class Schedule:
    """What was saved when, and hence what is due. Immutable: `saved` and `failed` give the next one."""

    rules: Rules
    marks: Mapping[Level, Mark] = field(default_factory=dict)
    free_at_seconds: float = -NEVER  # nothing is due before: the last save took long, or failed
    failures: int = 0  # in a row

    @classmethod
    def begin(cls, rules: Rules, now_seconds: float, sequence: int = 0, ended_tasks: int = 0) -> Schedule:
        """All intervals begin now; `sequence` is the last event that some checkpoint holds already."""
        return cls(rules, dict.fromkeys(Level, Mark(now_seconds, now_seconds, sequence, ended_tasks)))

    def with_rules(self, rules: Rules) -> Schedule:
        """The same with other settings."""
        return replace(self, rules=rules)

    def due(self, now_seconds: float, facts: Facts) -> Level | None:
        """The level to save now: the largest that is due, which covers the smaller ones."""
        return max((level for level in self.rules.intervals if self._time(level, facts) <= now_seconds), default=None)

    def due_in_seconds(self, now_seconds: float, facts: Facts) -> float:
        """How long a caller may wait before it asks again, if nothing changes; infinite when nothing is to be saved."""
        return max(0.0, min((self._time(level, facts) for level in self.rules.intervals), default=NEVER) - now_seconds)

    def due_on_stop(self, facts: Facts) -> Level | None:
        """The last checkpoint before a graceful stop, whatever room there is; None when the last one has it all."""
        made = Level.SESSION in self.rules.intervals
        return Level.SESSION if made and self._changed(Level.SESSION, facts) else None

    def saved(self, level: Level, began_seconds: float, ended_seconds: float, facts: Facts) -> Schedule:
        """After a save of `level` is durable; `facts` are those it was made of."""
        made = {
            one: Mark(
                self._answered(one, began_seconds, facts),
                began_seconds,
                facts.sequence,
                facts.ended_tasks,
                facts.streamed_tokens,
            )
            for one in Level
            if one <= level
        }
        free_at = began_seconds + (ended_seconds - began_seconds) / SAVING_SHARE
        return replace(self, marks={**self.marks, **made}, free_at_seconds=free_at, failures=0)

    def failed(self, began_seconds: float, ended_seconds: float) -> Schedule:
        """After a save that did not become durable: due again, but later each time. What it cost counts too, up to
        the longest interval: a checkpointd that hangs is asked again that soon."""
        retry = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self.failures, 16))
        paid_off = min(self.rules.most_seconds, (ended_seconds - began_seconds) / SAVING_SHARE)
        free_at = max(ended_seconds + retry, began_seconds + paid_off)
        return replace(self, free_at_seconds=free_at, failures=self.failures + 1)

    def pause_in_words(self, facts: Facts) -> str:
        """One sentence while levels pause for want of room, else ''."""
        paused = [level.name.lower() for level in sorted(PAUSED_WHEN_FULL & self.rules.intervals.keys())]
        if not facts.disk_full or not paused:
            return ""
        names = " and ".join(paused)
        return f"{names} checkpoints pause ({facts.disk_full}); smaller ones and the last one on stop are still made"

    def _time(self, level: Level, facts: Facts) -> float:
        """When a level is due; infinite while it has nothing to save or pauses."""
        if not self._changed(level, facts) or (facts.disk_full and level in PAUSED_WHEN_FULL):
            return NEVER
        mark = self.marks[level]
        if level is Level.TASK:
            return self.free_at_seconds
        planned = mark.planned_seconds + self.rules.interval(level, facts)
        if level is Level.SESSION and facts.sequence - mark.sequence >= self.rules.changes_threshold:
            planned = min(planned, mark.began_seconds + self.rules.least_seconds)
        if level is Level.SYSTEM:
            planned = max(planned, facts.system_free_at_seconds)
        soonest = mark.began_seconds + (1 - TOGETHER_SHARE) * self.rules.least_seconds  # after one that was late
        return max(planned, soonest, self.free_at_seconds)

    def _changed(self, level: Level, facts: Facts) -> bool:
        mark = self.marks[level]
        if level is Level.TASK:
            return facts.ended_tasks > mark.ended_tasks
        if level is Level.MICRO and facts.streamed_tokens != mark.streamed_tokens:
            return True
        return facts.sequence > mark.sequence

    def _answered(self, level: Level, now_seconds: float, facts: Facts) -> float:
        """The planned time that a save now stands for; now itself when none is near."""
        if level not in self.rules.intervals:
            return now_seconds
        interval = self.rules.interval(level, facts)
        planned = self.marks[level].planned_seconds + interval
        return planned if abs(now_seconds - planned) <= TOGETHER_SHARE * interval else now_seconds
