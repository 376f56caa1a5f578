"""How readings become pressure: pure functions that rise at once and fall late, so that a level cannot flap."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

NEVER = float("inf")


class Level(IntEnum):
    """The numbers of selfware.resource.v1.Pressure."""

    NONE = 1
    WARNING = 2
    CRITICAL = 3
    EMERGENCY = 4


@dataclass(frozen=True)
class Limits:
    """Where each level begins, and how far below its line a value must fall before the level is left."""

    warning: float
    critical: float
    emergency: float
    release: float = 0.05

    def line(self, level: Level) -> float:
        """The value at which `level` begins."""
        return {
            Level.NONE: -NEVER,
            Level.WARNING: self.warning,
            Level.CRITICAL: self.critical,
            Level.EMERGENCY: self.emergency,
        }[level]


def next_level(now: Level, value: float, limits: Limits) -> Level:
    """Rise at once; leave a level only below its line minus `release`."""
    reached = max(level for level in Level if value >= limits.line(level))
    if reached >= now:
        return reached
    return max(level for level in Level if level <= now and value >= limits.line(level) - limits.release)


def disk_level(now: Level, used_ratio: float, free_bytes: int, limits: Limits, enough_bytes: int) -> Level:
    """A percentage alone would call a 4 TB disk with 500 GB free full: with `enough_bytes` free, at most a warning."""
    level = next_level(now, used_ratio, limits)
    margin = 1 + limits.release if now > Level.WARNING else 1.0
    return min(level, Level.WARNING) if free_bytes >= enough_bytes * margin else level


def steady_percent(shown: int, ratio: float, width: int = 3) -> int:
    """The percentage to show: the old one until the value is `width` points away, so that a sentence stays quiet."""
    actual = 100 * ratio
    return shown if shown >= 0 and abs(actual - shown) < width else round(actual)
