"""Decides what may be a workspace, and guards its .git, so that no later git run of the operator executes a gift.

Inside the sandbox ``.git`` is mounted on itself (so it cannot be moved away and rebuilt), and its ``hooks`` and
``config`` are mounted on themselves read-only. A workspace without a repository gets an empty read-only ``.git``.
What cannot be mounted before it exists (a file ``.git/commondir``, a repository in another place) is undone after the
action, when nothing of it is alive: see repositories.py.
"""

from __future__ import annotations

import os
import stat

from selfware_common.record import NamedTuple

from . import repositories
from .refusal import RefusalError
from .sandbox import Mount, is_within

SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")


class Guard(NamedTuple):
    """What to mount over a workspace, and what to look after when the action is over."""

    workspace: str
    pins: tuple[Mount, ...]
    before: repositories.Survey

    def clean(self) -> tuple[str, ...]:
        """Remove what an action planted; call when none of its processes is left. Says what was removed."""
        return repositories.undo(self.workspace, self.before)


def resolve_workspace(path: str, forbidden: tuple[str, ...]) -> str:
    """The workspace's real path; RefusalError if an action must not have it."""
    if not os.path.isabs(path):
        raise RefusalError(f"workspace {path!r} is not an absolute path")
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise RefusalError(f"workspace {path} is not a directory")
    if real == "/" or any(is_within(real, place) for place in SYSTEM):
        raise RefusalError(f"workspace {path} is part of the system")
    for directory in (os.path.realpath(place) for place in forbidden):
        if is_within(directory, real):
            raise RefusalError(f"workspace {path} contains Selfware's own state in {directory}")
        if is_within(real, directory):
            raise RefusalError(f"workspace {path} lies in Selfware's own state in {directory}")
    return real


def require_workspace(path: str, forbidden: tuple[str, ...]) -> str:
    """The same, of a path that was resolved when a person named it: RefusalError if it leads elsewhere by now."""
    real = resolve_workspace(path, forbidden)
    if real != path:
        raise RefusalError(f"workspace {path} leads to {real} by now")
    return real


def resolve_cwd(workspace: str, cwd: str) -> str:
    """Where a command begins; links on the way are followed inside, where there is nowhere to escape to."""
    path = os.path.normpath(os.path.join(workspace, cwd))
    if not is_within(path, workspace):
        raise RefusalError(f"the working directory {cwd!r} lies outside the workspace")
    return path


def guard_git(workspace: str) -> Guard:
    """Make sure that what must be guarded exists, and say what to mount."""
    git = f"{workspace}/.git"
    try:
        own = _own_mounts(git)
        before = repositories.survey(workspace)
    except OSError as error:
        raise RefusalError(f"{git} cannot be guarded: {error.strerror}") from error
    return Guard(workspace, (*own, *repositories.pins(before, without=git)), before)


def _own_mounts(git: str) -> list[Mount]:
    kind = _kind(git)
    if kind is None:
        os.makedirs(git, 0o755, exist_ok=True)
        return [Mount(git)]
    if kind == stat.S_IFREG:  # a linked worktree or a submodule: its repository is elsewhere, so not visible
        return [Mount(git)]
    if kind != stat.S_IFDIR:
        raise RefusalError(f"{git} is {_NAMES.get(kind, 'something odd')}, not a directory")
    if _kind(f"{git}/HEAD") is None:
        return [Mount(git)]
    if _kind(f"{git}/commondir") is not None:
        raise RefusalError(f"{git}/commondir redirects git to another repository; remove it if it is not yours")
    return [Mount(git, writable=True), *_pins(git)]


def _pins(git: str) -> list[Mount]:
    hooks, config = f"{git}/hooks", f"{git}/config"
    _require(hooks, stat.S_IFDIR)
    _require(config, stat.S_IFREG)
    pins = [Mount(hooks), Mount(config)]
    with open(config, "rb") as file:
        per_worktree = b"worktreeconfig" in file.read().lower()
    if per_worktree or _kind(f"{git}/config.worktree") is not None:
        _require(f"{git}/config.worktree", stat.S_IFREG)
        pins.append(Mount(f"{git}/config.worktree"))
    return pins


def _require(path: str, wanted: int) -> None:
    """Create it empty if it is missing; refuse anything else in its place, links above all."""
    kind = _kind(path)
    if kind is None and wanted == stat.S_IFDIR:
        os.mkdir(path, 0o755)
    elif kind is None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    elif kind != wanted:
        raise RefusalError(f"{path} is {_NAMES.get(kind, 'something odd')}, not {_NAMES[wanted]}")


def _kind(path: str) -> int | None:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return None


_NAMES = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
