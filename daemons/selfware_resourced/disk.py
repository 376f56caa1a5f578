"""Room in the state directory: bytes and inodes, either of which ends a journal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Disk:
    """One reading, counted as df(1) does: blocks kept for root are neither used nor free."""

    path: Path
    total_bytes: int
    free_bytes: int
    used_ratio: float
    inodes_used_ratio: float


def read_disk(path: Path) -> Disk:
    """Of the filesystem that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    now = os.statvfs(path)
    used = now.f_blocks - now.f_bfree
    usable = used + now.f_bavail
    inodes_used = now.f_files - now.f_ffree
    inodes_usable = inodes_used + now.f_favail
    return Disk(
        path=path,
        total_bytes=now.f_blocks * now.f_frsize,
        free_bytes=now.f_bavail * now.f_frsize,
        used_ratio=used / usable if usable else 0.0,
        inodes_used_ratio=inodes_used / inodes_usable if now.f_files and inodes_usable else 0.0,
    )
