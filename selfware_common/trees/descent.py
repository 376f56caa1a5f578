"""Going down and up in a tree that others change meanwhile: one name at a time, never through a link.

Every directory is opened from the descriptor of the one above it. A deep tree would need more descriptors than a
process may have, so only the deepest ones stay open; going back up, the closed ones are opened again from the root,
name by name, and must be the same directories. Owns those descriptors; never looks at files.
"""

from __future__ import annotations

import errno
import os
import stat

MOST_OPEN = 128
_REOPENED = 64
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]


class Descent:
    """A place in a tree, by descriptors. Takes over the root's descriptor; close it in the end."""

    def __init__(self, root_fd: int) -> None:
        self._fds: list[int] = [root_fd]  # -1 where closed for now
        self._names: list[bytes] = [b""]
        self._identities: list[Identity] = [_identity(root_fd)]
        self._lowest = 1  # all from here to the deepest are open

    @property
    def fd(self) -> int:
        """The directory we are in."""
        return self._fds[-1]

    @property
    def depth(self) -> int:
        """0 in the root."""
        return len(self._fds) - 1

    def enter(self, name: bytes, *, force: bool = False) -> None:
        """Into a directory of this one; OSError if it is none, a link above all. force takes the right to, as owner."""
        try:
            fd = os.open(name, _FLAGS, dir_fd=self.fd)
        except PermissionError:
            if not force:
                raise
            fd = _open_by_force(name, self.fd)
        self._fds.append(fd)
        self._names.append(name)
        self._identities.append(_identity(fd))
        if len(self._fds) - self._lowest > MOST_OPEN:
            os.close(self._fds[self._lowest])
            self._fds[self._lowest] = -1
            self._lowest += 1

    def leave(self) -> bytes:
        """Back to the directory above; the name of the one left. OSError ESTALE if the way to it is no more."""
        os.close(self._fds.pop())
        self._identities.pop()
        name = self._names.pop()
        if self._fds[-1] == -1:
            self._reopen()
        return name

    def close(self) -> None:
        """Give all descriptors back."""
        for fd in self._fds:
            if fd != -1:
                os.close(fd)
        self._fds.clear()

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reopen(self) -> None:
        """Open the deepest closed ones again; only those that stay open are held for more than a moment."""
        first_kept = max(1, len(self._fds) - _REOPENED)
        fd = os.dup(self._fds[0])
        for level in range(1, len(self._fds)):
            try:
                below = os.open(self._names[level], _FLAGS, dir_fd=fd)
            finally:
                if level - 1 < first_kept:
                    os.close(fd)
            fd = below
            if level >= first_kept:
                self._fds[level] = fd
            if _identity(fd) != self._identities[level]:
                if level < first_kept:
                    os.close(fd)
                raise OSError(errno.ESTALE, "a directory was moved meanwhile")
        self._lowest = first_kept


def open_root(path: str | os.PathLike[str]) -> int:
    """The descriptor of a root: the one place where a link is followed, because the caller named it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def names_in(fd: int) -> list[bytes]:
    """The names in a directory, the last in order first: pop gives them in order."""
    with os.scandir(fd) as listed:
        return sorted((os.fsencode(entry.name) for entry in listed), reverse=True)


def _open_by_force(name: bytes, above: int) -> int:
    """Open a directory that its owner may not enter. O_PATH and /proc are how to chmod without following a link."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.chmod(f"/proc/self/fd/{handle}", mode | stat.S_IRWXU)  # noqa: PTH101 (a descriptor's name)
        return os.open(".", _FLAGS, dir_fd=handle)
    finally:
        os.close(handle)


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino)
