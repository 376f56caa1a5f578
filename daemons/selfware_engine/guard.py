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
TRACKER_SECONDS = 5.0
TRACKER = b"multiprocessing.resource_tracker"
LOOK_SECONDS = 0.02


def main() -> int:
    """Deaf to a polite stop: that is meant for the launcher, which then lets go of stdin."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    group = sys.stdin.readline().strip()
    sys.stdin.read()
    return 0 if not group.isdecimal() or end_group(int(group)) else 1


def end_group(group: int) -> bool:
    """SIGKILL to every process of the group until none is left; False when some would not go.

    Python's resource trackers come last: once the others are gone they give back the shared memory that those held
    (hundreds of megabytes of /dev/shm for each killed vLLM) and end by themselves.
    """
    began = time.monotonic()
    while living := _living(group):
        waited = time.monotonic() - began
        if waited > LONGEST_SECONDS:
            return False
        for pid in living:
            if waited > TRACKER_SECONDS or TRACKER not in _read(f"{pid}/cmdline"):
                _kill(pid)
        time.sleep(LOOK_SECONDS)
    return True


def _living(group: int) -> list[int]:
    """Without the dead ones that nobody buries: in a container without an init they stay for ever."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - pathlib would cost memory for days
        state, _parent, its_group = (_read(f"{pid}/stat").rpartition(b")")[2].split() or [b"X", b"", b""])[:3]
        if its_group == b"%d" % group and state not in (b"Z", b"X"):
            found.append(int(pid))
    return found


def _read(name: str) -> bytes:
    try:
        with open(f"/proc/{name}", "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main())
