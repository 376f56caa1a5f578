"""The script of the scripted engine: which rule answers a request, decided by what the request says.

A rule matches by the content and seed of a request, never by the order of calls, so a request repeated after a kill
gets the same answer. The one exception is deliberate: ``times`` ends a rule after so many matches (for faults that
go away), and its counts live in a state file so that they survive the kill of the engine too.

A script is a JSON list of rules, tried in order::

    [{"when": {"contains": ["fix pages.py"], "seed": 3}, "reply": {"tool": "write_file"}, "times": 2,
      "status": 500, "start_delay_seconds": 1, "tokens_delay_seconds": 0.01, "cut_after_tokens": 4,
      "tool_calls": [{"name": "finish", "arguments": {}}], "finish_reason": "length"}]

Every key is optional; a rule without ``when`` is the default rule.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson

from selfware_common.errors import SelfwareError


class ScriptError(SelfwareError):
    """The script of the scripted engine is wrong: {problem}."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True)
class ToolCall:
    """One call that the scripted model makes."""

    name: str
    arguments: str
    """JSON text, as it goes over the wire."""


@dataclass(frozen=True)
class Rule:
    """What is answered (reply, tool calls), how (delays), and what goes wrong (status, cut, times)."""

    contains: tuple[str, ...] = ()
    """Every one of these occurs somewhere in the messages of the request."""
    seed: int | None = None
    reply: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """Empty: tool_calls if there are any, else length if max_tokens cut the reply, else stop."""
    start_delay_seconds: float = 0.0
    tokens_delay_seconds: float = 0.0
    cut_after_tokens: int | None = None
    """The connection breaks after so many tokens."""
    status: int = 200
    times: int | None = None
    """The rule matches so many requests, then never again."""

    def matches(self, text: str, seed: int | None) -> bool:
        """True if the rule's conditions hold; times is the Script's affair."""
        return all(part in text for part in self.contains) and self.seed in (None, seed)

    @property
    def tokens(self) -> list[str]:
        """The reply in pieces of about a word each; joined they are the reply."""
        return re.findall(r"\s*\S{1,12}|\s+$", self.reply)


@dataclass
class Script:
    """Rules in order, and how often the limited ones were used."""

    rules: Sequence[Rule]
    state: Path | None = None
    used: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.state is not None and self.state.exists():
            counts: dict[str, int] = orjson.loads(self.state.read_bytes())
            self.used = {int(number): count for number, count in counts.items()}

    def answer(self, text: str, seed: int | None) -> Rule | None:
        """The first rule that matches and is not used up; the use is recorded before it is answered."""
        for number, rule in enumerate(self.rules):
            if not rule.matches(text, seed):
                continue
            if rule.times is None:
                return rule
            if self.used.get(number, 0) < rule.times:
                self.used[number] = self.used.get(number, 0) + 1
                self._save()
                return rule
        return None

    def _save(self) -> None:
        if self.state is None:
            return
        temporary = self.state.with_name(f".{self.state.name}.{os.getpid()}")
        temporary.write_bytes(orjson.dumps({str(number): count for number, count in self.used.items()}))
        temporary.replace(self.state)


def load(path: Path, state: Path | None = None) -> Script:
    """A script from its JSON file."""
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ScriptError(problem=f"{path} is not JSON: {error}") from error
    if not isinstance(document, list):
        raise ScriptError(problem=f"{path} is not a list of rules")
    return Script([parse_rule(entry) for entry in document], state)


def parse_rule(entry: dict[str, Any]) -> Rule:
    """One rule from its JSON form; an unknown key is an error, because a misspelt fault tests nothing."""
    rest = dict(entry)
    when: dict[str, Any] = rest.pop("when", {})
    known = {f.name for f in fields(Rule)} - {"contains", "seed"}
    unknown = sorted((rest.keys() - known) | (when.keys() - {"contains", "seed"}))
    if unknown:
        raise ScriptError(problem=f"unknown key {', '.join(unknown)} in {entry}")
    contains = when.get("contains", [])
    rest["contains"] = (contains,) if isinstance(contains, str) else tuple(contains)
    rest["seed"] = when.get("seed")
    rest["reply"] = _text(rest.get("reply", ""))
    rest["tool_calls"] = tuple(
        ToolCall(call["name"], _text(call.get("arguments", {}))) for call in rest.get("tool_calls", [])
    )
    return Rule(**rest)


def _text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
