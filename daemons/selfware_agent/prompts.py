"""What the agent says to the model when one file is to be rewritten: the words and the schema of the answer.

All pure: text in, text out. The wording was chosen by experiment with Qwen2.5-Coder-0.5B, which solves tiny tasks
if it is asked for one thing: the whole new text of one file, as the last field of one JSON object. The state machine
already knows the tool and the path, so the schema leaves the model no choice there.

What helped, most first: worked examples (they teach the form better than any rule), single quotes (an unescaped
double quote ends the JSON string in the middle of a line), the goal in one precise sentence at the very end, and
files without placeholders such as `raise NotImplementedError` (they are copied).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SYSTEM_PROMPT = (
    "You are a careful Python programmer. You change one file so that it reaches the goal. "
    'Answer with one JSON object: {"tool": "write_file", "path": the file, "content": its complete new text}. '
    "The content starts with the first line of the file. It is plain Python with 'single quotes'."
)
MAX_FAILURE_CHARACTERS = 600


@dataclass(frozen=True)
class FileText:
    """A file as the model sees it."""

    path: str
    text: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A worked example: a goal, the file before and the file after."""

    goal: str
    before: FileText
    after: str


EXAMPLES = (
    Example(
        "Fix area: it must multiply, not add. It raises ValueError if a side is negative.",
        FileText(
            "pocket/shapes.py",
            "# Shapes.\n\n\ndef area(width, height):\n    return width + height\n",
        ),
        "# Shapes.\n\n\ndef area(width, height):\n"
        "    if width < 0 or height < 0:\n"
        "        raise ValueError('a side is negative')\n"
        "    return width * height",
    ),
    Example(
        "Complete the class Lamp: add the method toggle, which turns it on if it is off, and off if it is on.",
        FileText(
            "pocket/lamp.py",
            "# Lamps.\n\n\nclass Lamp:\n    def __init__(self):\n        self.on = False\n",
        ),
        "# Lamps.\n\n\nclass Lamp:\n    def __init__(self):\n        self.on = False\n\n"
        "    def toggle(self):\n        self.on = not self.on",
    ),
)
"""Small models learn the form of the answer from examples, not from rules. They are part of every prompt, so the
engine computes them once."""


def chat(goal: str, target: FileText, context: Sequence[FileText], failure: str = "") -> list[Message]:
    """The whole conversation for one try: the rules, the worked examples, and the real request."""
    turns = [Message("system", SYSTEM_PROMPT)]
    for example in EXAMPLES:
        turns.append(Message("user", user_prompt(example.goal, example.before, ())))
        turns.append(Message("assistant", write_file_answer(example.before.path, example.after)))
    return [*turns, Message("user", user_prompt(goal, target, context, failure))]


def user_prompt(goal: str, target: FileText, context: Sequence[FileText], failure: str = "") -> str:
    """Every file the model needs, how the last try failed, then the file to change and the goal: what matters last."""
    parts = [_fenced(f"File {file.path}:", file.text) for file in context]
    if failure:
        parts.append(_fenced("An earlier try failed like this:", failure[-MAX_FAILURE_CHARACTERS:]))
    parts.append(_fenced(f"The file to change, {target.path}:", target.text))
    parts.append(f"Goal: {goal}\nWrite the complete new text of {target.path}.")
    return "\n\n".join(parts)


def write_file_answer(path: str, content: str) -> str:
    """The answer the model should give, in the order of keys that the schema asks for."""
    return json.dumps({"tool": "write_file", "path": path, "content": content})


def write_file_schema(path: str) -> dict[str, Any]:
    """A JSON schema that lets the model choose nothing but the content; content comes last."""
    return {
        "type": "object",
        "properties": {
            "tool": {"const": "write_file"},
            "path": {"const": path},
            "content": {"type": "string"},
        },
        "required": ["tool", "path", "content"],
        "additionalProperties": False,
    }


def _fenced(title: str, text: str) -> str:
    return f"{title}\n```python\n{text.strip()}\n```"
