from __future__ import annotations

from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.retention import beyond_newest


def checkpoint(number: int, level: Level) -> CheckpointInfo:
    return CheckpointInfo(number, "s", level, number, number, 0, 0, bytes(32), "")


def test_the_newest_of_each_level_stay() -> None:
    own = [checkpoint(number, Level.MICRO if number % 2 else Level.TASK) for number in range(1, 9)]
    assert [info.number for info in beyond_newest(own, {Level.MICRO: 1, Level.TASK: 3})] == [5, 3, 2, 1]


def test_a_level_without_a_rule_keeps_everything() -> None:
    assert beyond_newest([checkpoint(1, Level.SYSTEM), checkpoint(2, Level.SYSTEM)], {Level.TASK: 1}) == []


def test_at_least_one_stays_whatever_the_rule() -> None:
    own = [checkpoint(1, Level.TASK), checkpoint(2, Level.TASK)]
    assert [info.number for info in beyond_newest(own, {Level.TASK: 0})] == [1]
