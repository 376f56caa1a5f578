"""The few ways this daemon touches the disk, so that "durable" means the same thing everywhere.

Owns no state. Never opens a file that another module keeps open.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"

Sync = Callable[[int], None]


def write_all(file: int, pieces: Iterable[bytes | memoryview]) -> int:
    """Write every byte of every piece; a short write is followed by another, so ENOSPC shows itself."""
    total = 0
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            written = os.write(file, rest)
            rest = rest[written:]
            total += written
    return total


def sync_file(path: Path) -> None:
    """Make what a file holds durable, whoever wrote it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_directory(path: Path) -> None:
    """Make names (created, renamed, removed) in this directory durable."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_directory(path: Path) -> None:
    """Create a directory and every missing parent, durably.

    One that is there may be so only in memory: its maker died, or met an error, before the sync. A directory above it
    was durable before it was made, so its own name is the only one in doubt.
    """
    if path.is_dir():
        with contextlib.suppress(PermissionError):  # we did not make it in a directory that we may not even read
            sync_directory(path.parent)
        return
    make_directory(path.parent)
    path.mkdir(mode=0o750, exist_ok=True)
    sync_directory(path.parent)


def write_durably(
    path: Path,
    pieces: Sequence[bytes | memoryview],
    sync: Sync = os.fdatasync,
    before_rename: Callable[[], None] | None = None,
) -> int:
    """Temporary name, sync, rename, sync of the directory: the file is wholly there or not at all."""
    temporary, size = write_aside(path, pieces, sync)
    try:
        if before_rename is not None:
            before_rename()
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return size


def write_aside(path: Path, pieces: Iterable[bytes | memoryview], sync: Sync) -> tuple[Path, int]:
    """The first half of it: a whole file under a temporary name, ready to be renamed, and its size."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            size = write_all(file, pieces)
            sync(file)
        finally:
            os.close(file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary, size


def remove_leftovers(directory: Path) -> None:
    """Delete temporary files of writers that died before their rename; to be called before a directory is read.

    The names that stay become durable: a predecessor that was killed after its rename and before its sync left one
    that we would take for safe, build upon and acknowledge.
    """
    for leftover in directory.glob("*" + TEMPORARY_SUFFIX):
        leftover.unlink(missing_ok=True)
    sync_directory(directory)


def by_number(directory: Path, suffixes: Sequence[str]) -> dict[int, Path]:
    """The files of checkpoints (``ckpt-<number>``) with one of these endings."""
    found = {}
    for path in directory.glob("ckpt-*"):
        digits = path.stem.removeprefix("ckpt-")
        if path.suffix in suffixes and digits.isdecimal():
            found[int(digits)] = path
    return found
