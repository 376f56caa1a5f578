"""Lays the demo job out as a git repository, byte for byte the same every time.

The same content, author, dates and file modes give the same commit id on every machine, so an interrupted
`make run` recognises its own workspace, and two runs can be compared by `git diff`. The repository appears
in one rename: it is complete or not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from selfware_common.errors import SelfwareError

PACKAGE = "pocket"
BRANCH = "main"
AUTHOR = "Selfware Demo"
EMAIL = "demo@selfware.invalid"
COMMIT_DATE = "2026-01-01T00:00:00+00:00"
COMMON_FILES = {
    "README.md": "# pocket\n\nA small library that is not finished. Every file in `checks/` is one task.\n",
    ".gitignore": "__pycache__/\n*.pyc\n",
    # No cache directory: a check leaves nothing behind but byte code, and that is ignored.
    "pytest.ini": "[pytest]\naddopts = -p no:cacheprovider\ntestpaths = checks\n",
    f"{PACKAGE}/__init__.py": '"""Small things that every program needs."""\n',
}


class DemoWorkspaceError(SelfwareError):
    """{path} exists and is not the demo workspace."""

    exit_code = 73  # EX_CANTCREAT
    hint = "Name an empty place for it, or remove that directory."


class GitError(SelfwareError):
    """git could not create the demo workspace in {path}: {reason}."""

    exit_code = 73
    hint = "Is git installed, and is there space on that disk?"


@dataclass(frozen=True)
class DemoTask:
    """One task: what is wanted, which files may change, and the command that judges it."""

    name: str
    goal: str
    targets: tuple[str, ...]
    check: tuple[str, ...]
    context: tuple[str, ...]
    """Files worth reading besides the targets and the check."""
    files: tuple[tuple[str, str], ...]
    """The starting files: path and text."""


def load_tasks() -> tuple[DemoTask, ...]:
    """All tasks, in the order in which they are worked."""
    entries = resources.files(__package__).joinpath("tasks").iterdir()
    sources = sorted((entry for entry in entries if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return tuple(parse_task(source.name.removesuffix(".toml"), source.read_text("utf-8")) for source in sources)


def parse_task(name: str, text: str) -> DemoTask:
    """One task from its TOML text. A file's text starts after the line of its opening quotes, as TOML has it."""
    document = tomllib.loads(text)
    return DemoTask(
        name=name,
        goal=document["goal"],
        targets=tuple(document["targets"]),
        check=tuple(document["check"]),
        context=tuple(document.get("context", ())),
        files=tuple(document["files"].items()),
    )


def create(directory: Path, tasks: tuple[DemoTask, ...] | None = None) -> str:
    """Make the demo repository and return its first commit; an existing one is left as it is."""
    if directory.exists():
        return _recognise(directory)
    building = directory.with_name(f".{directory.name}.building")
    if building.exists():
        shutil.rmtree(building)
    for path, text in sorted(_all_files(load_tasks() if tasks is None else tasks).items()):
        file = building / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        file.chmod(0o664)
    _git(building, "init", "-q", "-b", BRANCH)
    _git(building, "add", "-A")
    _git(building, "commit", "-q", "-m", "A library that is not finished")
    # The agent commits in this repository later, on machines where git knows no author.
    _git(building, "config", "user.name", AUTHOR)
    _git(building, "config", "user.email", EMAIL)
    commit = _first_commit(building)
    building.rename(directory)
    return commit


def _all_files(tasks: tuple[DemoTask, ...]) -> dict[str, str]:
    files = dict(COMMON_FILES)
    for task in tasks:
        files.update(task.files)
    return files


def _recognise(directory: Path) -> str:
    try:
        if (directory / ".git").is_dir() and (directory / PACKAGE).is_dir():
            return _first_commit(directory)
    except GitError as error:
        raise DemoWorkspaceError(path=directory) from error
    raise DemoWorkspaceError(path=directory)


def _first_commit(directory: Path) -> str:
    return _git(directory, "rev-list", "--max-parents=0", "HEAD").strip()


def _git(directory: Path, *arguments: str) -> str:
    """git with the user's and the machine's configuration left out, so that the result is the same everywhere."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": AUTHOR,
        "GIT_AUTHOR_EMAIL": EMAIL,
        "GIT_AUTHOR_DATE": COMMIT_DATE,
        "GIT_COMMITTER_NAME": AUTHOR,
        "GIT_COMMITTER_EMAIL": EMAIL,
        "GIT_COMMITTER_DATE": COMMIT_DATE,
    }
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], env=env, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise GitError(path=directory, reason="git is not installed") from error
    if done.returncode != 0:
        raise GitError(path=directory, reason=done.stderr.strip() or f"git ended with {done.returncode}")
    return done.stdout
