"""Reads, writes, edits and searches files. Runs inside the sandbox, alone: standard library only, no package.

Usage: ``inside.py WORKSPACE`` with one line of JSON on standard input. The sandbox is the protection: a path that
leads out of the workspace leads to nothing there. The checks here only make for clear words. Prints the answer and
exits 0, or prints one sentence and exits 1.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator

MOST_MATCHES = 1000
LONGEST_LINE = 500
LARGEST_SEARCHED = 8 * 1024 * 1024


class CannotError(Exception):
    """The sentence to print."""


def main() -> int:
    """Do what the line on standard input says."""
    try:
        order = json.loads(sys.stdin.buffer.readline())
    except ValueError:
        return 125  # the runner died before it had said everything
    workspace = sys.argv[1]
    try:
        _DO[order["kind"]](workspace, order)
        sys.stdout.flush()
    except CannotError as error:
        return _fail(str(error))
    except UnicodeEncodeError:
        return _fail(f"{order['kind']}: the text is not valid Unicode")
    except RecursionError:
        return _fail(f"{order['kind']}: the directories are nested too deeply")
    except OSError as error:
        where = f"{os.path.relpath(error.filename, workspace)}: " if isinstance(error.filename, str) else ""
        return _fail(f"{where}{error.strerror}")
    return 0


def read_file(workspace: str, order: dict[str, str]) -> None:
    """Print the lines asked for."""
    data = _read(_locate(workspace, order["path"]), order["path"])
    first, count = int(order["offset"]), int(order["limit"])
    if first or count:
        lines = data.splitlines(keepends=True)
        data = b"".join(lines[first : first + count] if count else lines[first:])
    sys.stdout.buffer.write(data)


def write_file(workspace: str, order: dict[str, str]) -> None:
    """Replace the whole file at once."""
    path = _locate(workspace, order["path"])
    data = order["content"].encode()
    _refuse_git(workspace, path, order["path"])
    if os.path.isdir(path):
        raise CannotError(f"{order['path']} is a directory")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _replace(path, data, executable=bool(order["executable"]))
    sys.stdout.write(f"wrote {len(data)} bytes to {order['path']}\n")


def edit_file(workspace: str, order: dict[str, str]) -> None:
    """Replace the one passage that matches."""
    path = _locate(workspace, order["path"])
    _refuse_git(workspace, path, order["path"])
    data = _read(path, order["path"])
    old, new = order["old"].encode(), order["new"].encode()
    found = data.count(old)
    if found != 1:
        raise CannotError(f"{order['path']}: the text to replace was found {found} times; it must occur exactly once")
    _replace(path, data.replace(old, new), executable=False)
    line = data[: data.index(old)].count(b"\n") + 1
    sys.stdout.write(f"edited {order['path']} at line {line}\n")


def search(workspace: str, order: dict[str, str]) -> None:
    """Print path:line: text for every match, up to a bound."""
    import re
    from fnmatch import fnmatch

    try:
        pattern = re.compile(order["pattern"].encode())
    except re.error as error:
        raise CannotError(f"the pattern is not a regular expression: {error}") from error
    found = 0
    for path in _files(_locate(workspace, order["path"] or ".")):
        name = os.path.relpath(path, workspace)
        if order["glob"] and not (fnmatch(name, order["glob"]) or fnmatch(os.path.basename(name), order["glob"])):
            continue
        for number, line in _matches(path, pattern.search):
            if found == MOST_MATCHES:
                sys.stdout.write(f"[... more than {MOST_MATCHES} matches; narrow the search ...]\n")
                return
            found += 1
            sys.stdout.buffer.write(b"%s:%d: %s\n" % (os.fsencode(name), number, line[:LONGEST_LINE]))
    if not found:
        sys.stdout.write("no matches\n")


def _matches(path: str, search_line: object) -> Iterator[tuple[int, bytes]]:
    if not callable(search_line):
        raise TypeError
    try:
        data = _read(path, path, LARGEST_SEARCHED)
    except (OSError, CannotError):
        return  # a search passes over what cannot be read
    if b"\0" in data[:8192]:
        return
    for number, line in enumerate(data.splitlines(), 1):
        if search_line(line):
            yield number, line


def _files(top: str) -> Iterator[str]:
    """Regular files below top in a stable order, without entering .git or following links."""
    if not os.path.exists(top):
        raise CannotError("there is nothing at the path to search")
    if not os.path.isdir(top):
        yield top
        return
    for directory, names, files in os.walk(top):
        names[:] = sorted(name for name in names if name.casefold() != ".git")
        for name in sorted(files):
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _locate(workspace: str, path: str) -> str:
    """The real path, which must lie in the workspace."""
    real = os.path.realpath(os.path.join(workspace, path))
    if real != workspace and not real.startswith(workspace + "/"):
        raise CannotError(f"{path} lies outside the workspace")
    return real


def _refuse_git(workspace: str, real: str, path: str) -> None:
    if any(part.casefold() == ".git" for part in os.path.relpath(real, workspace).split("/")):
        raise CannotError(f"{path} lies in .git, which belongs to git: use git commands")


def _read(path: str, name: str, limit: int = 1 << 40) -> bytes:
    """A regular file's content: a pipe or a device could block for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CannotError(f"{name} is not a regular file")
        if status.st_size > limit:
            raise CannotError(f"{name} is too large")
        return file.read()


def _replace(path: str, data: bytes, *, executable: bool) -> None:
    """Temporary name, fsync, rename, fsync of the directory; an existing file keeps its mode."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    if executable:
        mode |= 0o111 & ~_umask()
    temporary = f"{path}.{os.getpid()}.selfware-tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fail(sentence: str) -> int:
    sys.stdout.buffer.write(sentence.encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.flush()
    return 1


_DO = {"read_file": read_file, "write_file": write_file, "edit_file": edit_file, "search": search}

if __name__ == "__main__":
    sys.exit(main())
