"""Makes a directory equal to a saved tree, touching only what differs.

The stream is checked to its last byte before anything is changed. Each file is made under a temporary name and then
renamed; everything is synced once at the end. Killed half-way, it has done a part: run again it goes on, and ends with
the same tree. Never follows a link, never writes into a file in place (it may have a second name elsewhere), never
enters another file system. Not for a directory that others write to meanwhile: they win or lose by chance.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from selfware_common.trees.descent import Descent, names_in, open_root
from selfware_common.trees.merging import OPEN_FILE, Level, Merge, has_mode, restore_error
from selfware_common.trees.reading import Tree, read_tree
from selfware_common.trees.stream import Entry, Kind

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Restored:
    """How many entries were dealt with in which way; deleted counts a directory with all that was in it once."""

    created: int
    changed: int
    deleted: int
    unchanged: int


def restore_tree(stream: BinaryIO, root: Path) -> Restored:
    """Make root, which is created if it is missing, equal to the tree in a seekable stream; durable on return.

    TreeDamagedError and TreeVersionError change nothing; TreeRestoreError and DiskFullError may come half-way.
    """
    tree = read_tree(stream)
    tree.check_contents()
    try:
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
        descent = Descent(open_root(root))
    except OSError as error:
        raise restore_error(error, b"", root) from error
    with descent:
        restoring = _Restoring(tree, root, descent)
        restoring.run()
        try:
            _sync_file_system(descent.fd)
        except OSError as error:
            raise restore_error(error, b"", root) from error
    return Restored(restoring.created, restoring.changed, restoring.deleted, restoring.unchanged)


class _Restoring(Merge):
    """Does it."""

    def __init__(self, tree: Tree, root: Path, descent: Descent) -> None:
        super().__init__(tree, root, descent)
        self.created = self.changed = self.deleted = self.unchanged = 0
        self._device = os.fstat(descent.fd).st_dev

    def _delete(self, name: bytes) -> None:
        self._at = self._path_of(name)
        self._remove(name)
        self.deleted += 1

    def _directory(self, entry: Entry, status: os.stat_result | None) -> Level:
        if entry.depth:
            if status is None or not stat.S_ISDIR(status.st_mode):
                if status is not None:
                    self._remove(entry.name)
                os.mkdir(entry.name, 0o700, dir_fd=self._descent.fd)
            self._descent.enter(entry.name, force=True)
        own = _take(self._descent.fd, self._device)
        self._count(status, status is not None and has_mode(entry, status) and stat.S_ISDIR(status.st_mode))
        return Level(entry, names_in(self._descent.fd), stat.S_IMODE(own.st_mode))

    def _leave(self, level: Level) -> None:
        fd, entry = self._descent.fd, level.entry
        if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
            os.fchmod(fd, entry.mode)
        _set_time(fd, entry)
        if self._levels:
            self._descent.leave()

    def _leaf(self, entry: Entry, status: os.stat_result | None) -> None:
        if status is not None and self._is_same(entry, status) and self._adjust(entry, status):
            self._count(status, has_mode(entry, status))
            return
        self._count(status, is_unchanged=False)
        temporary = f".selfware-{secrets.token_hex(8)}.tmp".encode()
        try:
            self._make(entry, temporary)
            if status is not None and stat.S_ISDIR(status.st_mode):
                self._remove(entry.name)
            os.rename(temporary, entry.name, src_dir_fd=self._descent.fd, dst_dir_fd=self._descent.fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._descent.fd)
            raise

    def _count(self, status: os.stat_result | None, is_unchanged: bool) -> None:
        self.created += status is None
        self.unchanged += is_unchanged
        self.changed += status is not None and not is_unchanged

    def _adjust(self, entry: Entry, status: os.stat_result) -> bool:
        """Give what is there the right mode and time; False if that could reach something outside of the tree."""
        if has_mode(entry, status) and status.st_mtime_ns == entry.modified_unix_nanos:
            return True
        if status.st_nlink > 1 or entry.kind == Kind.PIPE:
            return False
        if entry.kind == Kind.LINK:
            times = (status.st_atime_ns, entry.modified_unix_nanos)
            os.utime(entry.name, ns=times, dir_fd=self._descent.fd, follow_symlinks=False)
            return True
        fd = os.open(entry.name, OPEN_FILE, dir_fd=self._descent.fd)
        try:
            now = os.fstat(fd)
            if (now.st_ino, now.st_dev, now.st_nlink) != (status.st_ino, status.st_dev, 1):
                return False
            _set_mode_and_time(fd, entry)
        finally:
            os.close(fd)
        return True

    def _make(self, entry: Entry, temporary: bytes) -> None:
        if entry.kind == Kind.LINK:
            os.symlink(entry.target, temporary, dir_fd=self._descent.fd)
            times = (entry.modified_unix_nanos, entry.modified_unix_nanos)
            os.utime(temporary, ns=times, dir_fd=self._descent.fd, follow_symlinks=False)
            return
        if entry.kind == Kind.PIPE:
            os.mkfifo(temporary, 0o600, dir_fd=self._descent.fd)
            fd = os.open(temporary, OPEN_FILE, dir_fd=self._descent.fd)
        else:
            fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=self._descent.fd)
        try:
            if entry.kind == Kind.FILE:
                for piece in self._tree.content(entry):
                    _write(fd, piece)
            _set_mode_and_time(fd, entry)
        finally:
            os.close(fd)

    def _remove(self, name: bytes) -> None:
        """Delete what has this name, with everything in it."""
        try:
            os.unlink(name, dir_fd=self._descent.fd)
        except IsADirectoryError:
            with Descent(os.dup(self._descent.fd)) as below:
                _remove_directory(below, name, self._device)


def _remove_directory(descent: Descent, name: bytes, device: int) -> None:
    """Without recursion: a hostile tree is deeper than any stack."""
    waiting = [_enter(descent, name, device)]
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            left = descent.leave()
            os.rmdir(left, dir_fd=descent.fd)
            continue
        inner = waiting[-1].pop()
        try:
            os.unlink(inner, dir_fd=descent.fd)
        except IsADirectoryError:
            waiting.append(_enter(descent, inner, device))


def _enter(descent: Descent, name: bytes, device: int) -> list[bytes]:
    descent.enter(name, force=True)
    _take(descent.fd, device)
    return names_in(descent.fd)


def _take(fd: int, device: int) -> os.stat_result:
    """Make sure that its owner may change a directory, for as long as we work in it."""
    status = os.fstat(fd)
    if status.st_dev != device:
        raise OSError(errno.EXDEV, "another file system is mounted there")
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(fd, mode | stat.S_IRWXU)
    return status


def _set_mode_and_time(fd: int, entry: Entry) -> None:
    os.fchmod(fd, entry.mode)
    _set_time(fd, entry)


def _set_time(fd: int, entry: Entry) -> None:
    status = os.fstat(fd)
    if status.st_mtime_ns != entry.modified_unix_nanos:
        os.utime(fd, ns=(status.st_atime_ns, entry.modified_unix_nanos))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_file_system(fd: int) -> None:
    """syncfs, which Python has not: one for all files is cheaper than one fsync for each."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
