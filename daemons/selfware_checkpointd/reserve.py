"""A file that is only there to be removed: when the disk is full, the last checkpoint finds room where it was.

Made by upkeep, when there is plenty of room; never at the cost of anything else. Its size is a small share of the file
system and of the limit, at most 64 MiB; its content means nothing. Not for micro checkpoints: they come every half
minute and would use it up. Owns ``<root>/reserve``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST_BYTES = 64 * 1024 * 1024
SHARE = 32  # of the file system, and of the limit
BLOCK = 4096


class Reserve:
    """One file."""

    def __init__(self, root: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = root / "reserve"
        self._most_bytes = most_bytes
        self.size_bytes = self._found()

    def release(self) -> bool:
        """Give the room away; was there any?"""
        with contextlib.suppress(OSError):  # then it is of no use
            self._path.unlink()
            self.size_bytes = 0
            return True
        return False

    def renew(self, limit_bytes: int, left_bytes: int) -> None:
        """Have it again, if the disk has plenty of room and the limit allows it; if not, another time."""
        try:
            system = os.statvfs(self._path.parent)
            blocks = min(self._most_bytes, system.f_blocks * system.f_frsize // SHARE, limit_bytes // SHARE) // BLOCK
            size = blocks * BLOCK
            missing = size - self.size_bytes
            if missing <= 0 or left_bytes < missing or system.f_bavail * system.f_frsize < 4 * size:
                return
            self._make(size)
        except OSError:
            self.release()
        self.size_bytes = self._found()

    def _make(self, size: int) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(file)

    def _found(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
