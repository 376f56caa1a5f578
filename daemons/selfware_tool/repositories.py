"""Finds every git repository in a workspace, and undoes what an action did to make a later git run its programs.

A repository's config and hooks name programs, and git starts them for whoever runs it there. Git takes for one: any
directory that holds HEAD and objects and refs (or commondir), the workspace itself included; and what a file or link
called ``.git`` points to. A ``git status`` also enters the repositories that its index names.

Repositories that are there before an action keep their config and hooks: those are mounted read-only on themselves,
and known again by their inode, so moving them away and rebuilding them helps nothing. A ``.git`` that appears is
removed when the action is over, and a bare repository loses its HEAD. Does not look into ``.git`` but for submodules.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator

from selfware_common.record import NamedTuple

from .refusal import RefusalError
from .sandbox import Mount

OBEYED = ("config", "config.worktree", "hooks", "commondir")  # what makes git run a program
MOST = 100  # each costs up to four mounts
SHOWN = 5
_INNARDS = frozenset({"objects", "refs", "logs", "info", "hooks"})

Identity = tuple[int, int]


class Survey(NamedTuple):
    """The repositories of a workspace at one moment, by the inode of their directory, and the pointers to some."""

    repositories: dict[Identity, tuple[str, tuple[Identity | None, ...]]]
    pointers: dict[tuple[Identity, str], str]


def survey(workspace: str) -> Survey:
    """What is there now; RefusalError where there are too many to guard."""
    found = Survey({}, {})
    for path, is_repository in _walk(workspace):
        identity = _identity(path)
        if identity is None:
            continue
        if is_repository:
            found.repositories[identity] = (path, tuple(_identity(f"{path}/{name}") for name in OBEYED))
        else:
            found.pointers[identity, _target(path)] = path
    if len(found.repositories) > MOST:
        raise RefusalError(f"{workspace} holds more than {MOST} git repositories; work in one of them")
    return found


def pins(before: Survey, without: str) -> list[Mount]:
    """What to mount on itself, read-only, but for the repository in the directory ``without``."""
    paths = [
        f"{path}/{name}"
        for path, obeyed in before.repositories.values()
        if path != without
        for name, identity in zip(OBEYED, obeyed, strict=True)
        if identity is not None
    ]
    paths += [path for path in before.pointers.values() if path != without]
    return [Mount(path) for path in sorted(paths) if not os.path.islink(path)]


def undo(workspace: str, before: Survey) -> tuple[str, ...]:
    """Make harmless what was planted since; call when nothing of the action is left. Says what was removed."""
    removed = []
    for planted in list(_planted(workspace, before)):
        name = os.path.relpath(planted, workspace).encode("utf-8", "backslashreplace").decode()
        try:
            _remove(planted)
        except OSError as error:
            name += f" (in vain: {error.strerror})"
        removed.append(name)
    more = [f"{len(removed) - SHOWN} more"] if len(removed) > SHOWN else []
    return (*removed[:SHOWN], *more)


def _planted(workspace: str, before: Survey) -> Iterator[str]:
    for path, is_repository in _walk(workspace):
        identity = _identity(path)
        if identity is None:
            continue
        if not is_repository:
            if (identity, _target(path)) not in before.pointers:
                yield path
        elif identity not in before.repositories:
            yield path if os.path.basename(path) == ".git" else f"{path}/HEAD"
        else:
            yield from _changed(path, before.repositories[identity][1])


def _changed(path: str, before: tuple[Identity | None, ...]) -> Iterator[str]:
    """What appeared in a repository that was there; its HEAD if what it obeys was exchanged."""
    for name, was in zip(OBEYED, before, strict=True):
        now = _identity(f"{path}/{name}")
        if now != was and now is not None:
            yield f"{path}/{name}" if was is None else f"{path}/HEAD"


def _walk(workspace: str) -> Iterator[tuple[str, bool]]:
    """Every repository (True) and every pointer to one (False). Where to look is decided by names alone, never by
    whether something is a repository now: else one could be hidden in another."""
    waiting = [(workspace, False)]
    while waiting:
        directory, in_modules = waiting.pop()
        try:
            with os.scandir(directory) as listed:
                entries = list(listed)
        except OSError:
            continue  # what we cannot enter, git cannot either
        names = {entry.name for entry in entries}
        if "HEAD" in names and ({"objects", "refs"} <= names or "commondir" in names):
            yield directory, True
        is_git = os.path.basename(directory) == ".git"
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                if entry.name == ".git":
                    yield entry.path, False
            elif is_git or in_modules:
                if entry.name == "modules" or (in_modules and entry.name not in _INNARDS):
                    waiting.append((entry.path, True))
            else:
                waiting.append((entry.path, False))


def _identity(path: str) -> Identity | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _target(path: str) -> str:
    return os.readlink(path) if os.path.islink(path) else ""


def _remove(path: str) -> None:
    """A file or a whole directory, also where the action took our right to do so. A directory first gets a name that
    means nothing to git: one of hostile depth may prove impossible to delete."""
    try:
        _open(os.path.dirname(path))
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        aside = f"{path}.planted-{time.time_ns()}"
        os.rename(path, aside)
    except FileNotFoundError:
        return  # it went with another
    _delete(aside)


def _delete(directory: str) -> None:
    import shutil

    try:
        _open(directory)
        if os.path.lexists(f"{directory}/HEAD"):
            os.unlink(f"{directory}/HEAD")  # whatever is left is then no repository
        waiting = [directory]
        while waiting:
            inner = waiting.pop()
            _open(inner)
            with os.scandir(inner) as listed:
                waiting += [entry.path for entry in listed if entry.is_dir(follow_symlinks=False)]
        shutil.rmtree(directory)
    except (OSError, RecursionError):
        return  # what is left is only in the way


def _open(directory: str) -> None:
    os.chmod(directory, stat.S_IMODE(os.lstat(directory).st_mode) | stat.S_IRWXU)
