"""Turns a proposal into the one form that is judged, shown, approved and run: canonical bytes and their digest.

    digest = BLAKE3("selfware.effect.1\\n" + canonical JSON of {"action":…,"task_id":…,"workspace":…})

Canonical JSON has sorted keys, no spaces and only ASCII, so equal meaning gives equal bytes, and a person sees
invisible characters as escapes. An approval is bound to the digest: one byte more and it is another action. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3
from google.protobuf.json_format import MessageToDict

from selfware_common.log import printable
from selfware_common.rpc import oversight_pb2
from selfware_oversightd.errors import ActionTooLargeError, InvalidIdError, NoActionError
from selfware_tool.actions import Action, EditFile, ReadFile, RunCode, RunCommand, Search, WriteFile, parse_action
from selfware_tool.files import canonical
from selfware_tool.refusal import RefusalError, UnsupportedKindError

DIGEST_CONTEXT = b"selfware.effect.1\n"
MAX_ACTION_BYTES = 4 * 1024 * 1024
MAX_REASON_CHARS = 4000
SUMMARY_CHARS = 160

CLASSES = {
    "run_command": "SystemCommand",
    "run_code": "CodeExecution",
    "read_file": "FileModification",
    "write_file": "FileModification",
    "edit_file": "FileModification",
    "search": "FileModification",
    "http_request": "NetworkRequest",
    "self_modify": "SelfModification",
    "resource_override": "ResourceOverride",
    "finish": "Finish",
}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Proposal:
    """One action as proposed, with everything that follows from its bytes alone."""

    effect_id: str
    digest: str
    kind: str
    record: Mapping[str, Any]  # {"run_command": {...}}, the form the runner takes
    canonical: str  # the bytes of the record, as text
    action: Action | None  # typed; None for a kind that runs nothing here, or a malformed one
    problem: str  # why it cannot be run as written; empty if it can
    line: str  # what patterns are matched against, on one line
    workspace: str
    session_id: str
    task_id: str
    reason: str

    @property
    def approval_class(self) -> str:
        """SystemCommand, FileModification and so on."""
        return CLASSES.get(self.kind, "Unknown")

    @property
    def summary(self) -> str:
        """For people: short, printable, in words."""
        if isinstance(self.action, WriteFile):
            return shorten(f"{self.line}, {len(self.action.content.encode())} bytes")
        return shorten(f"run '{self.line}'" if self.kind in _RUNS else self.line)


def read_proposal(request: oversight_pb2.PerformRequest) -> Proposal:
    """The proposal in a request; raises for an empty one, a bad id, or one too large to keep."""
    for what, value in (("effect", request.effect_id), ("task", request.task_id)):
        require_id(what, value)
    if request.session_id:
        require_id("session", request.session_id)
    kind = request.action.WhichOneof("kind")
    if kind is None:
        raise NoActionError(effect_id=request.effect_id)
    record = MessageToDict(request.action, preserving_proto_field_name=True)
    text = canonical(record)
    if len(text) > MAX_ACTION_BYTES:
        raise ActionTooLargeError(effect_id=request.effect_id, size_bytes=len(text), limit_bytes=MAX_ACTION_BYTES)
    action, problem = _typed(record)
    return Proposal(
        effect_id=request.effect_id,
        digest=digest_of(record, request.workspace, request.task_id),
        kind=kind,
        record=record,
        canonical=text.decode("ascii"),
        action=action,
        problem=problem,
        line=one_line(kind, record[kind], action),
        workspace=request.workspace,
        session_id=request.session_id,
        task_id=request.task_id,
        reason=request.reason[:MAX_REASON_CHARS],
    )


def digest_of(record: Mapping[str, Any], workspace: str, task_id: str) -> str:
    """64 hex digits that stand for exactly this action, there, for that task."""
    body = canonical({"action": record, "workspace": workspace, "task_id": task_id})
    return blake3(DIGEST_CONTEXT + body).hexdigest()


def require_id(what: str, value: str) -> str:
    """The id itself, if it is one."""
    if not _ID.fullmatch(value):
        raise InvalidIdError(what=what, value=repr(value[:140]))
    return value


def one_line(kind: str, fields: Mapping[str, Any], action: Action | None) -> str:
    """The action on one printable line, words quoted as a shell would need them. The exact bytes are in `canonical`."""
    match action:
        case RunCommand(argv=argv, script=script, cwd=cwd, env=env):
            words = [f"{name}={value}" for name, value in env]
            command = shlex.join([*(["env", *words] if words else []), *(argv or ("sh", "-c", script))])
            return printable(command + (f" (in {shlex.quote(cwd)})" if cwd else ""))
        case RunCode(language=language, code=code):
            return printable(f"{language} {shlex.quote(code)}")
        case ReadFile(path=path):
            return printable(f"read {shlex.quote(path)}")
        case WriteFile(path=path):
            return printable(f"write {shlex.quote(path)}")
        case EditFile(path=path):
            return printable(f"edit {shlex.quote(path)}")
        case Search(pattern=pattern, path=path):
            return printable(f"search {shlex.quote(pattern)} in {shlex.quote(path or '.')}")
        case None:
            return _other_line(kind, fields)


def shorten(text: str, limit: int = SUMMARY_CHARS) -> str:
    """At most `limit` characters, saying how many are missing."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def _typed(record: Mapping[str, Any]) -> tuple[Action | None, str]:
    try:
        return parse_action(record), ""
    except UnsupportedKindError:
        return None, ""
    except RefusalError as error:
        return None, str(error)


def _other_line(kind: str, fields: Mapping[str, Any]) -> str:
    if kind == "http_request":
        return printable(f"fetch {fields.get('method') or 'GET'} {fields.get('url', '')}")
    if kind == "self_modify":
        return printable(f"change {fields.get('component', '')}")
    if kind == "resource_override":
        return printable(f"raise {fields.get('resource', '')} to {fields.get('requested', 0)}")
    if kind == "finish":
        return "finish"
    return printable(f"{kind} {canonical(fields).decode('ascii')}")


_RUNS = frozenset({"run_command", "run_code"})
