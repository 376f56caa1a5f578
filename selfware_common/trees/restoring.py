"""Makes a directory equal to a saved tree, touching only what differs.

The stream is checked to its last byte before anything is changed. Each file is made under a temporary name and then
renamed; everything is synced once at the end. Killed half-way, it has done a part: run again it goes on, and ends with
the same tree. Never follows a link, never writes into a file in place (it may have a second name elsewhere), never
enters another file system. Not for a directory that others write to meanwhile: they win or lose by chance.

Owners are not saved. What is made belongs to who restores; when that is root, to the owner of what it replaces or
else of its directory. So a file made setuid by an untrusted action would come back as a setuid file of somebody else:
unless set_id allows it, files come back without those bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from selfware_common.trees.descent import Descent, names_in, open_root
from selfware_common.trees.merging import OPEN_FILE, Level, Merge, has_mode, restore_error
from selfware_common.trees.reading import Tree, read_tree
from selfware_common.trees.stream import Entry, Kind

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Restored:
    """How many entries were dealt with in which way; deleted counts a directory with all that was in it once."""

    created: int
    changed: int
    deleted: int
    unchanged: int


def restore_tree(stream: BinaryIO, root: Path, set_id: bool = False) -> Restored:
    """Make root, which is created if it is missing, equal to the tree in a seekable stream; durable on return.

    set_id restores setuid and setgid of files too: only where who restores is who owned them.
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
        restoring = _Restoring(tree, root, descent, set_id)
        restoring.run()
        try:
            _sync_file_system(descent.fd)
        except OSError as error:
            raise restore_error(error, b"", root) from error
    return Restored(restoring.created, restoring.changed, restoring.deleted, restoring.unchanged)


class _Restoring(Merge):
    """Does it."""

    def __init__(self, tree: Tree, root: Path, descent: Descent, set_id: bool) -> None:
        super().__init__(tree, root, descent, set_id)
        self.created = self.changed = self.deleted = self.unchanged = 0
        self._device = os.fstat(descent.fd).st_dev
        self._is_root = os.geteuid() == 0

    def _delete(self, name: bytes) -> None:
        self._at = self._path_of(name)
        self._remove(name)
        self.deleted += 1

    def _directory(self, entry: Entry, status: os.stat_result | None) -> Level:
        if entry.depth:
            self._enter(entry, status)
        _take(self._descent.fd, self._device)
        self._count(status, status is not None and has_mode(entry, status) and stat.S_ISDIR(status.st_mode))
        return Level(entry, names_in(self._descent.fd))

    def _enter(self, entry: Entry, status: os.stat_result | None) -> None:
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._descent.enter(entry.name, force=True)
            return
        if status is not None:
            self._remove(entry.name)
        with self._new_name() as temporary:
            # With its rights at once, as far as the umask lets us: a later chmod could take away the set-group-id bit
            # that it has from the directory above (see _set_directory_mode).
            os.mkdir(temporary, entry.mode & 0o777 | stat.S_IRWXU, dir_fd=self._descent.fd)
            fd = os.open(temporary, _OPEN_DIRECTORY, dir_fd=self._descent.fd)
            try:
                self._give_away(fd, status)
            finally:
                os.close(fd)
            self._put(temporary, entry.name)
        self._descent.enter(entry.name)

    def _leave(self, level: Level) -> None:
        fd, entry = self._descent.fd, level.entry
        try:
            _set_directory_mode(fd, entry.mode)
        except PermissionError:
            if entry.depth:
                raise  # but the root may be somebody's who only lets us fill it
        with contextlib.suppress(PermissionError):  # another's directory, where we may write: its time is no loss
            _set_time(fd, entry)
        if self._levels:
            self._descent.leave()

    def _leaf(self, entry: Entry, status: os.stat_result | None) -> None:
        if status is not None and self._is_same(entry, status) and self._adjust(entry, status):
            self._count(status, has_mode(entry, status))
            return
        self._count(status, is_unchanged=False)
        with self._new_name() as temporary:
            self._make(entry, temporary, status)
            if status is not None and stat.S_ISDIR(status.st_mode):
                self._remove(entry.name)
            self._put(temporary, entry.name)

    @contextlib.contextmanager
    def _new_name(self) -> Iterator[bytes]:
        """A name for what is not whole yet. If we are killed it stays, and the next restore deletes it."""
        temporary = f".selfware-{secrets.token_hex(8)}.tmp".encode()
        try:
            yield temporary
        except BaseException:
            with contextlib.suppress(OSError):
                self._remove(temporary)
            raise

    def _put(self, temporary: bytes, name: bytes) -> None:
        os.rename(temporary, name, src_dir_fd=self._descent.fd, dst_dir_fd=self._descent.fd)

    def _count(self, status: os.stat_result | None, is_unchanged: bool) -> None:
        self.created += status is None
        self.unchanged += is_unchanged
        self.changed += status is not None and not is_unchanged

    def _adjust(self, entry: Entry, status: os.stat_result) -> bool:
        """Give what is there the right mode and time; False if we may not, or if a name outside could share it."""
        if has_mode(entry, status) and status.st_mtime_ns == entry.modified_unix_nanos:
            return True
        if status.st_nlink > 1 or entry.kind == Kind.PIPE:
            return False
        try:
            if entry.kind == Kind.LINK:
                self._set_time_of_link(entry, entry.name)
                return True
            fd = os.open(entry.name, OPEN_FILE, dir_fd=self._descent.fd)
            try:
                now = os.fstat(fd)
                if (now.st_ino, now.st_dev, now.st_nlink) != (status.st_ino, status.st_dev, 1):
                    return False
                _set_mode_and_time(fd, entry)
            finally:
                os.close(fd)
        except PermissionError:
            return False
        return True

    def _make(self, entry: Entry, temporary: bytes, replaced: os.stat_result | None) -> None:
        if entry.kind == Kind.LINK:
            os.symlink(entry.target, temporary, dir_fd=self._descent.fd)
            self._set_time_of_link(entry, temporary)
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
            self._give_away(
                fd, replaced or os.fstat(self._descent.fd)
            )  # before the mode: changing the owner takes some bits away
            _set_mode_and_time(fd, entry)
        finally:
            os.close(fd)

    def _give_away(self, fd: int, replaced: os.stat_result | None) -> None:
        """What root made must not be root's: whose it was could no longer change it. Nobody need own a link."""
        if self._is_root and os.fstat(fd).st_uid == 0:
            like = replaced or os.fstat(self._descent.fd)
            os.fchown(fd, like.st_uid, like.st_gid)

    def _set_time_of_link(self, entry: Entry, name: bytes) -> None:
        times = (entry.modified_unix_nanos, entry.modified_unix_nanos)
        os.utime(name, ns=times, dir_fd=self._descent.fd, follow_symlinks=False)

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


def _take(fd: int, device: int) -> None:
    """Make sure that its owner may change a directory, for as long as we work in it."""
    status = os.fstat(fd)
    if status.st_dev != device:
        raise OSError(errno.EXDEV, "another file system is mounted there")
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        _set_directory_mode(fd, mode | stat.S_IRWXU)


def _set_directory_mode(fd: int, mode: int) -> None:
    """A sandbox may forbid its set-group-id bit, or the kernel drop it: who is not in the group only inherits it."""
    now = stat.S_IMODE(os.fstat(fd).st_mode)
    if now == mode:
        return
    try:
        os.fchmod(fd, mode)
    except PermissionError:
        if not mode & stat.S_ISGID:
            raise
        if now != mode & ~stat.S_ISGID:
            os.fchmod(fd, mode & ~stat.S_ISGID)


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
