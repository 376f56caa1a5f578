"""Which checkpoints may go. A decision only: no files, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfware_checkpointd.manifest import CheckpointInfo, Level


def beyond_newest(checkpoints: Sequence[CheckpointInfo], keep: Mapping[Level, int]) -> list[CheckpointInfo]:
    """Those of one session that are older than the newest N of their level, newest first.

    A level that is not named keeps everything, and at least one of each level stays, so that numbers never repeat.
    """
    doomed = []
    seen = dict.fromkeys(Level, 0)
    for info in sorted(checkpoints, key=lambda info: info.number, reverse=True):
        seen[info.level] += 1
        if info.level in keep and seen[info.level] > max(1, keep[info.level]):
            doomed.append(info)
    return doomed
