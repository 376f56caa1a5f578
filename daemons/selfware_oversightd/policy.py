"""Decides whether an action is allowed, asked about, or forbidden. Pure: no I/O, no clock.

    forbid > ask > allow, and whatever nothing here recognises is asked about

The operator's lists come first (auto_reject, then require_approval); then what is plainly safe inside the workspace of
a registered goal; then auto_approve, which never reaches an interpreter, a script, an environment or a path that leads
out. Every decision says in words which rule it followed.
"""

from __future__ import annotations

import enum
import posixpath
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase

from selfware_common.log import printable
from selfware_oversightd.canonical import Proposal
from selfware_oversightd.commands import is_plain_commit_step, is_plain_path, is_plainly_reading, runs_any_text
from selfware_tool.actions import EditFile, ReadFile, RunCommand, Search, WriteFile


class Verdict(enum.Enum):
    """What is to be done with a proposal."""

    ALLOW = "allow"
    ASK = "ask"
    FORBID = "forbid"


@dataclass(frozen=True)
class Decision:
    """A verdict and the rule it follows from, in words."""

    verdict: Verdict
    rule: str


@dataclass(frozen=True)
class Goal:
    """What the operator registered: where a task may work, how its result is checked, whether it may commit."""

    goal_id: str
    workspace: str  # the real path
    check: tuple[str, ...]
    commit: bool
    created_unix_nanos: int = 0


@dataclass(frozen=True)
class Rules:
    """The operator's lists from selfware.toml."""

    auto_reject: tuple[str, ...] = ()
    require_approval: tuple[str, ...] = ()
    auto_approve: tuple[str, ...] = ()
    may_ask: bool = True


ALWAYS_ASKED = frozenset({"self_modify", "resource_override"})


def decide(proposal: Proposal, real_workspace: str, goal: Goal | None, rules: Rules) -> Decision:
    """`goal` is the one registered for the proposal's task, `real_workspace` what its workspace leads to."""
    if goal is None:
        return Decision(Verdict.FORBID, f"no goal {proposal.task_id} is registered, so it has no workspace")
    if goal.workspace != real_workspace:
        return Decision(Verdict.FORBID, f"goal {goal.goal_id} is registered for another workspace: {goal.workspace}")
    if proposal.problem:
        return Decision(Verdict.FORBID, f"it cannot be run as written: {proposal.problem}")
    decision = _by_lists_and_defaults(proposal, goal, rules)
    if decision.verdict is Verdict.ASK and not rules.may_ask:
        return Decision(Verdict.FORBID, f"a person would have to be asked ({decision.rule}), and asking is disabled")
    return decision


def _by_lists_and_defaults(proposal: Proposal, goal: Goal, rules: Rules) -> Decision:
    if proposal.kind == "finish":
        return Decision(Verdict.ALLOW, "finish runs nothing")
    if pattern := _matching(rules.auto_reject, proposal):
        return Decision(Verdict.FORBID, f"auto_reject pattern '{pattern}'")
    if pattern := _matching(rules.require_approval, proposal):
        return Decision(Verdict.ASK, f"require_approval pattern '{pattern}'")
    if proposal.kind in ALWAYS_ASKED:
        return Decision(Verdict.ASK, f"{proposal.approval_class} is always asked about")
    if reason := _plainly_safe(proposal, goal):
        return Decision(Verdict.ALLOW, reason)
    if pattern := _approving(rules.auto_approve, proposal):
        return Decision(Verdict.ALLOW, f"auto_approve pattern '{pattern}'")
    return Decision(Verdict.ASK, "not plainly safe inside the workspace")


def _plainly_safe(proposal: Proposal, goal: Goal) -> str:
    """Why it is, or ''."""
    match proposal.action:
        case ReadFile(path=path) | WriteFile(path=path) | EditFile(path=path) if is_plain_path(path):
            return "a file inside the workspace"
        case Search(path=path) if not path or is_plain_path(path):
            return "a search inside the workspace"
        case RunCommand() as command:
            return _plainly_safe_command(command, goal)
    return ""


def _plainly_safe_command(command: RunCommand, goal: Goal) -> str:
    if command.script or command.env or command.cwd:
        return ""
    if goal.check and command.argv == goal.check:
        return "the check registered with the goal"
    if goal.commit and is_plain_commit_step(command.argv):
        return "a git step of a goal that may commit"
    if is_plainly_reading(command.argv):
        return "a plainly reading command"
    return ""


def _matching(patterns: tuple[str, ...], proposal: Proposal) -> str:
    """The first pattern that matches, however the same action is spelled."""
    lines = [f"{proposal.approval_class}: {line}" for line in _spellings(proposal)]
    return next((pattern for pattern in patterns if any(fnmatchcase(line, pattern) for line in lines)), "")


def _spellings(proposal: Proposal) -> list[str]:
    """The literal line, then the same with the program's bare name and with plain paths, quoted and not."""
    verb, _, rest = proposal.line.partition(" ")
    match proposal.action:
        case RunCommand(argv=(program, *arguments), env=(), cwd=""):
            name = program.rsplit("/", 1)[-1]
            words = [name, *(_plain(word) for word in arguments)]
            others = [f"{name} {rest}".strip(), shlex.join(words), " ".join(words)]
        case RunCommand(argv=(_, *_)):
            others = [" ".join([verb.rsplit("/", 1)[-1], rest]).strip()]
        case ReadFile(path=path) | WriteFile(path=path) | EditFile(path=path):
            others = [f"{verb} {shlex.quote(_plain(path))}", f"{verb} {_plain(path)}"]
        case Search(pattern=pattern, path=path):
            place = _plain(path or ".")
            others = [f"{verb} {shlex.quote(pattern)} in {shlex.quote(place)}", f"{verb} {pattern} in {place}"]
        case _:
            others = []
    return [proposal.line, *(printable(other) for other in others)]


def _plain(word: str) -> str:
    """A path without detours: ./a//b/../c is a/c."""
    return posixpath.normpath(word) if "/" in word else word


def _approving(patterns: tuple[str, ...], proposal: Proposal) -> str:
    """The first pattern that may approve it; only the literal line counts."""
    if not _may_be_approved_by_pattern(proposal):
        return ""
    line = f"{proposal.approval_class}: {proposal.line}"
    return next((pattern for pattern in patterns if fnmatchcase(line, pattern)), "")


def _may_be_approved_by_pattern(proposal: Proposal) -> bool:
    match proposal.action:
        case RunCommand(argv=argv, script=script, env=env, cwd=cwd):
            plain = not script and not env and (not cwd or is_plain_path(cwd))
            return plain and bool(argv) and not runs_any_text(argv)
        case ReadFile(path=path) | WriteFile(path=path) | EditFile(path=path):
            return is_plain_path(path)
        case Search(path=path):
            return not path or is_plain_path(path)
    return proposal.kind == "http_request"
