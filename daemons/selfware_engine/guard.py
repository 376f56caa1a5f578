"""Ends a whole process group as soon as its launcher is gone, however it went.

A program of its own, because a launcher that is killed can clean up nothing any more, and vLLM's EngineCore and workers
outlive the process that started them and keep its memory. It reads the number of the group from stdin and then waits
for the end of stdin: only the launcher holds the other end. It inherits the engine's lock, so the lock is free only
when the group is gone. Imports next to nothing: it lives as long as the engine does.
"""

from __future__ import annotations

import os
import signal
import sys
import time

LONGEST_SECONDS = 15.0
LOOK_SECONDS = 0.02


def main() -> int:
    """Deaf to a polite stop: that is meant for the launcher, which then lets go of stdin."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    group = sys.stdin.readline().strip()
    sys.stdin.read()
    return 0 if not group.isdecimal() or end_group(int(group)) else 1


def end_group(group: int) -> bool:
    """SIGKILL to every process of the group until none is left; False when some would not go."""
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            return True
        time.sleep(LOOK_SECONDS)
        if not _living(group):
            return True
    return False


def _living(group: int) -> bool:
    """Dead ones that nobody buries count for kill(2); in a container without an init they stay for ever."""
    for process in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - pathlib would cost memory for days
        try:
            with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
                state, _parent, its_group = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if its_group == str(group) and state not in "ZX":
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
