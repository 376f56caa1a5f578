"""A cgroup of its own per hierarchy for a container, so that the systemd in it may set limits that really hold.

Where the host has version 1 hierarchies, nspawn leaves the controllers read-only inside; with a sub-cgroup of its own,
a container may write there without touching anything of the host. Where the host has version 2 only, nspawn's own
delegation is enough and nothing is made here.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")  # what the container may write to
OTHERS = ("blkio", "devices", "freezer", "systemd", "unified")  # joined to be apart from the host; cpuset needs set-up
REMOVE_SECONDS = 5.0


def create(name: str) -> list[Path]:
    """Make the group in every version 1 hierarchy. An empty list: the host has none, or does not let us."""
    if not (MOUNT / "memory" / "cgroup.procs").exists():
        return []
    made: list[Path] = []
    try:
        for hierarchy in (*CONTROLLERS, *OTHERS):
            if (MOUNT / hierarchy / "cgroup.procs").exists():
                group = MOUNT / hierarchy / name
                group.mkdir()
                made.append(group)
    except OSError:
        remove(name)
        return []
    return made


def remove(name: str) -> None:
    """Remove the group everywhere, from the leaves up; waits for the kernel to let go of the dead."""
    for group in MOUNT.glob(f"*/{name}"):
        deadline = time.monotonic() + REMOVE_SECONDS
        while not _removed(group):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{group} still has processes: {_processes(group)}")
            time.sleep(0.02)


def leftovers(name: str) -> list[Path]:
    """The groups of that name that still exist."""
    return list(MOUNT.glob(f"*/{name}"))


def root_of(leader: int) -> list[Path]:
    """What the container of that leader sees as the root of each hierarchy."""
    roots = []
    for line in Path(f"/proc/{leader}/cgroup").read_text(encoding="utf-8").splitlines():
        _, hierarchy, path = line.split(":", 2)
        directory = MOUNT / (hierarchy.removeprefix("name=") or "unified")
        if directory.is_dir() and hierarchy != "cpuset":
            roots.append(directory / path.removesuffix("/init.scope").lstrip("/"))
    return roots


def _removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return not group.exists()


def _processes(group: Path) -> list[str]:
    return [pid for path in group.rglob("cgroup.procs") for pid in path.read_text(encoding="utf-8").split()]
