"""Throwaway directories under /var/tmp, locked by the process that owns them, swept when their owner was killed.

A root image never lies in /tmp: a systemd that boots there could take the host's /tmp for its own. The owner keeps a
lock for as long as it lives, so whoever comes later knows what nobody needs any more, and removes it with its cgroups.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from tests.system import cgroups

PARENT = Path("/var/tmp")
PREFIX = "selfware-test-"
LOCK = "lock"


class WorkDir:
    """One directory with a lock in it; gone when the context ends."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
        new = self.path / f"{LOCK}.new"
        self._lock = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)  # locked before a sweep can see it

    @property
    def name(self) -> str:
        """Unique among the living: it names the cgroups too."""
        return self.path.name

    def __enter__(self) -> WorkDir:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the directory; harmless when it runs twice."""
        if self._lock >= 0:
            remove_tree(self.path)
            os.close(self._lock)
            self._lock = -1


def sweep() -> None:
    """Remove what killed owners left behind. Their processes died with them (see machine.py and qemu.py)."""
    for path in PARENT.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, RuntimeError):  # in use, or not dead yet: the next sweep's
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                cgroups.remove(path.name)
                remove_tree(path)
            finally:
                os.close(lock)


def remove_tree(path: Path) -> None:
    """Remove a tree, never what is mounted below it: that is an error."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mounted = line.split()[4]
        if mounted.startswith(f"{path}/"):
            raise RuntimeError(f"{mounted} is still mounted: not removing {path}")
    shutil.rmtree(path, ignore_errors=False)
