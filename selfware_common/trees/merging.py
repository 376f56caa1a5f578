"""Walks a saved tree and a directory side by side: the half that planning and restoring have in common.

Both are sorted, so one pass suffices: what the directory has and the tree has not shows as a name that was passed
over. Owns the descent; what to do about a difference is decided by the two who inherit.
"""

from __future__ import annotations

import abc
import errno
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.trees.descent import Descent
from selfware_common.trees.errors import TreeRestoreError, printable
from selfware_common.trees.reading import Tree
from selfware_common.trees.stream import Entry, Kind

OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_SET_ID = stat.S_ISUID | stat.S_ISGID
_TYPES = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.LINK: stat.S_IFLNK,
    Kind.PIPE: stat.S_IFIFO,
}


@dataclass(slots=True)
class Level:
    """A directory on the way here: what it shall be, the names that it has and that are to come, the next one last."""

    entry: Entry
    existing: list[bytes]
    is_real: bool = True


class Merge(abc.ABC):
    """One pass over a tree and the directory at root."""

    def __init__(self, tree: Tree, root: Path, descent: Descent, set_id: bool) -> None:
        self._tree, self._root, self._descent, self._set_id = tree, root, descent, set_id
        self._levels: list[Level] = []
        self._at = b""  # what an error is about

    def run(self) -> None:
        """To the end; every OSError becomes a sentence that names the path."""
        try:
            for entry in self._tree:
                while len(self._levels) > entry.depth:
                    self._finish()
                self._at = entry.path
                self._place(entry)
            while self._levels:
                self._finish()
        except OSError as error:
            raise restore_error(error, self._at, self._root) from error

    @abc.abstractmethod
    def _delete(self, name: bytes) -> None:
        """Deal with a name of this directory that the tree has not."""

    @abc.abstractmethod
    def _directory(self, entry: Entry, status: os.stat_result | None) -> Level:
        """Deal with a directory and go into it; status is what has its name now."""

    @abc.abstractmethod
    def _leaf(self, entry: Entry, status: os.stat_result | None) -> None:
        """Deal with anything else but an unread entry."""

    @abc.abstractmethod
    def _leave(self, level: Level) -> None:
        """Done with all in a directory; the level is no longer on the stack."""

    def _place(self, entry: Entry) -> None:
        if entry.kind == Kind.FILE and entry.mode & _SET_ID and not self._set_id:
            entry = replace(entry, mode=entry.mode & ~_SET_ID)
        status = self._status(entry.name) if entry.depth else os.fstat(self._descent.fd)
        if entry.kind == Kind.DIRECTORY:
            self._levels.append(self._directory(entry, status))
        elif entry.kind != Kind.UNREAD:
            self._leaf(entry, status)

    def _status(self, name: bytes) -> os.stat_result | None:
        """What has this name in the directory, after the names before it were dealt with."""
        level = self._levels[-1]
        if not level.is_real:
            return None
        while level.existing and level.existing[-1] < name:
            self._delete(level.existing.pop())
        if level.existing and level.existing[-1] == name:
            level.existing.pop()
        try:
            return os.stat(name, dir_fd=self._descent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _finish(self) -> None:
        level = self._levels[-1]
        while level.existing:
            self._delete(level.existing.pop())
        self._at = level.entry.path
        self._leave(self._levels.pop())

    def _path_of(self, name: bytes) -> bytes:
        above = self._levels[-1].entry.path
        return above + b"/" + name if above else name

    def _is_same(self, entry: Entry, status: os.stat_result) -> bool:
        """Whether kind and content fit already; mode and times aside."""
        if stat.S_IFMT(status.st_mode) != _TYPES[entry.kind]:
            return False
        if entry.kind == Kind.LINK:
            return os.readlink(entry.name, dir_fd=self._descent.fd) == entry.target
        return entry.kind != Kind.FILE or (status.st_size == entry.content_bytes and self._has_content(entry))

    def _has_content(self, entry: Entry) -> bool:
        try:
            fd = os.open(entry.name, OPEN_FILE, dir_fd=self._descent.fd)
        except OSError:
            return False  # then it is replaced, which needs no right to it
        try:
            return all(os.read(fd, len(piece)) == piece for piece in self._tree.content(entry))
        finally:
            os.close(fd)


def has_mode(entry: Entry, status: os.stat_result) -> bool:
    """Whether the permission bits fit; those of a link mean nothing."""
    return entry.kind == Kind.LINK or stat.S_IMODE(status.st_mode) == entry.mode


def restore_error(error: OSError, path: bytes, root: Path) -> SelfwareError:
    """Tell a full disk from what only a person can mend."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(what="the restored tree", path=root)
    return TreeRestoreError(path=printable(path), root=root, reason=error.strerror or str(error))
