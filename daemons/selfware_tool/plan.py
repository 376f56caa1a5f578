"""Turns an action into what runs inside the sandbox: a command, its standard input and the files it needs. Pure."""

from __future__ import annotations

from selfware_common.record import NamedTuple

from .actions import Action, RunCode, RunCommand
from .files import canonical
from .refusal import RefusalError
from .request import PythonHome
from .sandbox import TOOL_DIRECTORY, gated

INSIDE = f"{TOOL_DIRECTORY}/inside.py"
CODE = f"{TOOL_DIRECTORY}/code"
SCRIPT = f"{TOOL_DIRECTORY}/script"

LANGUAGES = {
    "python": "python3",
    "python3": "python3",
    "sh": "sh",
    "shell": "sh",
    "bash": "bash",
    "javascript": "node",
    "perl": "perl",
}


class Plan(NamedTuple):
    """What runs inside."""

    command: tuple[str, ...]
    stdin: bytes
    cwd: str = ""
    env: tuple[tuple[str, str], ...] = ()
    texts: tuple[tuple[str, bytes], ...] = ()  # path inside, content
    needs_inside: bool = False


def plan_for(action: Action, python: PythonHome, workspace: str) -> Plan:
    """How to run the action; RefusalError if it cannot be run."""
    if isinstance(action, RunCommand):
        return _command(action)
    if isinstance(action, RunCode):
        return _code(action, workspace)
    command = (python.executable, "-I", "-S", INSIDE, workspace)
    kind = _FILE_KINDS[type(action).__name__]
    return Plan(command, canonical({"kind": kind, **action._asdict()}) + b"\n", needs_inside=True)


def _command(action: RunCommand) -> Plan:
    if action.argv:
        return Plan(gated(action.argv), b"go\n", action.cwd, action.env)
    script = _encode("script", action.script)
    return Plan(gated(("/bin/sh", SCRIPT)), b"go\n", action.cwd, action.env, ((SCRIPT, script),))


def _code(action: RunCode, workspace: str) -> Plan:
    interpreter = LANGUAGES.get(action.language.lower())
    if interpreter is None:
        raise RefusalError(f"run_code knows {', '.join(sorted(LANGUAGES))}, but not {action.language!r}")
    code = _encode("code", action.code)
    env = (("PYTHONPATH", workspace),) if interpreter == "python3" else ()
    return Plan(gated((interpreter, CODE)), b"go\n", "", env, ((CODE, code),))


def _encode(what: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusalError(f"the {what} is not valid Unicode: {error.reason}") from error


_FILE_KINDS = {"ReadFile": "read_file", "WriteFile": "write_file", "EditFile": "edit_file", "Search": "search"}
