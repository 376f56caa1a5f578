"""Bounds the number of processes of an action that runs as root, where RLIMIT_NPROC counts for nothing.

The runner moves itself into a group of its own before it starts the sandbox. Where no group
with a pids limit can be made (an ordinary user, or a machine that delegates none) nothing happens: for an ordinary
user the resource limit does the work; for root without groups the number of processes is not bounded.
"""

from __future__ import annotations

import os
import time

ROOT = "/sys/fs/cgroup"
PREFIX = "selfware-tool-"
YOUNG_SECONDS = 60
REMOVE_SECONDS = 5
OWN_PROCESSES = 3  # the runner, bubblewrap and its first process inside


class ProcessGroup:
    """Owns one directory of the cgroup tree; ``remove_after_us`` removes it."""

    def __init__(self, parent: str, directory: str) -> None:
        self._parent = parent
        self._directory = directory

    def remove_after_us(self) -> None:
        """Leave a child behind that removes the group: moving out takes up to 20 ms, and somebody waits for our end."""
        if os.fork():
            return
        _move(self._parent)
        deadline = time.monotonic() + REMOVE_SECONDS
        while not _remove(self._directory) and time.monotonic() < deadline:
            time.sleep(0.005)  # our parent is in it until it has ended
        os._exit(0)


def enter(effect_id: str, processes: int) -> ProcessGroup | None:
    """Move this process into a new group that holds at most so many processes, None where that cannot be done."""
    if os.geteuid() != 0 or not processes:
        return None
    for parent in _own_groups():
        directory = f"{parent}/{PREFIX}{effect_id}-{os.getpid()}"
        try:
            _sweep(parent)
            os.mkdir(directory)
            _write(f"{directory}/pids.max", str(processes + OWN_PROCESSES))
            _move(directory)
        except OSError:
            _remove(directory)
            continue
        return ProcessGroup(parent, directory)
    return None


def _own_groups() -> list[str]:
    """The groups this process is in: of the pids hierarchy (version 1), or of the one hierarchy (version 2)."""
    groups = []
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _number, controllers, path = line.rstrip("\n").split(":", 2)
            if "pids" in controllers.split(","):
                groups.append(f"{ROOT}/pids{path}".rstrip("/"))
            elif not controllers:
                groups.append(f"{ROOT}{path}".rstrip("/"))
    return groups


def _sweep(parent: str) -> None:
    """Remove the empty groups of runners that were killed; a runner that is just entering its own keeps it."""
    for name in os.listdir(parent):
        directory = f"{parent}/{name}"
        if name.startswith(PREFIX) and time.time() - os.stat(directory).st_mtime > YOUNG_SECONDS:
            _remove(directory)


def _move(directory: str) -> None:
    _write(f"{directory}/cgroup.procs", str(os.getpid()))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # in use
    return True
