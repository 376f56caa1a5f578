"""The form in which a model must answer, and its answer as an action.

Every reply is one JSON object with a `tool` field; the schema is enforced by the engine while it decodes, so even a
very small model produces something parsable. Where the next step is known (one target file), the schema is narrowed to
it: const tool, const path. The reply is still untrusted: what it asks for goes through oversightd like anything else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from selfware_agent import prompts
from selfware_agent.state import Goal

_TEXT: dict[str, Any] = {"type": "string"}

# Field order matters: a model decides on the path before it writes the content.
TOOLS: dict[str, dict[str, dict[str, Any]]] = {
    "run_command": {"script": _TEXT},
    "read_file": {"path": _TEXT},
    "write_file": {"path": _TEXT, "content": _TEXT},
    "edit_file": {"path": _TEXT, "old": _TEXT, "new": _TEXT},
    "search": {"pattern": _TEXT, "path": _TEXT},
    "finish": {"summary": _TEXT},
}


@dataclass(frozen=True)
class BadReply:
    """Why a reply is not an action, in words that can be shown to the model."""

    problem: str


def schema(goal: Goal) -> str:
    """JSON Schema text for the next reply of a task."""
    if goal.sample:
        return json.dumps(prompts.write_file_schema(goal.target_paths[0]))
    return json.dumps({"anyOf": [_object(tool, fields) for tool, fields in TOOLS.items()]})


def parse(text: str, finish_reason: str) -> dict[str, Any] | BadReply:
    """The action ({"tool": ..., fields}) or what is wrong with the reply."""
    if finish_reason == "length":
        return BadReply("the reply was cut off at the token limit")
    try:
        value = json.loads(text)
    except ValueError as error:
        return BadReply(f"the reply is not valid JSON: {error}")
    except RecursionError:
        return BadReply("the reply is not valid JSON: it is nested too deeply")
    if not isinstance(value, dict) or not isinstance(value.get("tool"), str) or value["tool"] not in TOOLS:
        return BadReply(f"the reply must be an object whose 'tool' is one of {', '.join(TOOLS)}")
    wanted = TOOLS[value["tool"]]
    missing = [name for name in wanted if not isinstance(value.get(name), str)]
    if missing:
        return BadReply(f"'{value['tool']}' needs the text field(s) {', '.join(missing)}")
    action = {"tool": value["tool"], **{name: value[name] for name in wanted}}
    if not all(_is_text(one) for one in action.values()):
        return BadReply("the reply holds characters that no file or command can hold")
    return action


def _is_text(value: str) -> bool:
    """False for lone surrogates (JSON allows them, UTF-8 does not) and NUL (no argument and no path can hold it)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _object(tool: str, fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"tool": {"type": "string", "const": tool}, **fields},
        "required": ["tool", *fields],
        "additionalProperties": False,
    }
