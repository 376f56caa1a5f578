"""What the agent says to the model: the words, the schema it must answer in, and how each further try is sampled.

All pure: text in, text out. The wording was chosen by experiment with Qwen2.5-Coder-0.5B, which solves tiny tasks
if it is asked for one thing: the whole new text of one file, as the last field of one JSON object. The state machine
already knows the tool and the path, so the schema leaves the model no choice there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SYSTEM_PROMPT = (
    "You are a careful Python programmer. You are given a goal, the file to change and the tests it must pass. "
    'Answer with one JSON object: {"tool": "write_file", "path": <the file>, "content": <its complete new text>}. '
    "The content is plain Python source, not Markdown. Keep names and signatures as they are."
)
MAX_ANSWER_TOKENS = 600
"""A small model that has not finished by then is repeating itself; its answer counts as a failed try."""
MAX_FAILURE_CHARACTERS = 700


@dataclass(frozen=True)
class FileText:
    """A file as the model sees it."""

    path: str
    text: str


@dataclass(frozen=True)
class Sampling:
    """How one try is sampled."""

    temperature: float
    seed: int


def user_prompt(goal: str, target: FileText, context: Sequence[FileText], failure: str = "") -> str:
    """The goal, every file the model needs, the file to change last, and how the last try failed."""
    parts = [f"Goal: {goal}"]
    parts += [f"File {file.path}:\n```python\n{file.text.strip()}\n```" for file in context]
    parts.append(f"The file to change, {target.path}:\n```python\n{target.text.strip()}\n```")
    if failure:
        parts.append(f"An earlier try failed:\n```\n{failure[-MAX_FAILURE_CHARACTERS:].strip()}\n```")
    parts.append(f"Write the complete new text of {target.path}.")
    return "\n\n".join(parts)


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


def sampling(try_number: int, base_seed: int = 0) -> Sampling:
    """Try 1 is greedy, the most likely answer; every further try is a fresh sample with its own seed."""
    if try_number <= 1:
        return Sampling(temperature=0.0, seed=base_seed)
    return Sampling(temperature=0.8, seed=base_seed + try_number)
