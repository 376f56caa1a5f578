"""The state of a growing agent session, the same bytes for the same seed: what the checkpoint benchmark saves.

Made of real text (the sources and docstrings of Python's standard library), as an agent meets it: prose, numbered
listings, search hits, diffs and test reports, JSON-escaped. A step appends 0.5 to 2 % of new messages, edits a few old
ones, sometimes replaces a run of neighbours by one summary, and changes the figures at the head, so that everything
behind them moves by some bytes. The corpus is read once; nothing is written.
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

RECENT = 1000
TOOLS = ("read_file", "edit_file", "run_command", "search", "write_file")


@dataclass(frozen=True)
class Corpus:
    """Source lines by file, and one long piece of English."""

    names: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    prose: str


@cache
def corpus() -> Corpus:
    """Read the standard library in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names, lines, prose = [], [], []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if {"site-packages", "dist-packages", "test", "tests", "encodings"} & set(relative.parts):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > 500:
            names.append(str(relative))
            lines.append(tuple(text.splitlines()))
            prose += re.findall(r'"""(.{80,3000}?)"""', text, re.DOTALL)
    return Corpus(tuple(names), tuple(lines), re.sub(r"\s+", " ", " ".join(prose)))


@dataclass
class Session:
    """Owns the encoded messages; `fresh` are the ones that the last step wrote."""

    size_bytes: int
    seed: int = 1
    steps: int = 0
    fresh: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._written = 0
        self._messages: list[bytes] = []
        self._append(self.size_bytes)
        self.fresh = list(self._messages)

    def step(self, share: float | None = None) -> str:
        """One step of work, which appends 0.5 to 2 % or this share; says what changed."""
        self.steps += 1
        self.fresh = []
        edited = self._random.randrange(3, 13)
        for _ in range(edited):
            self._replace(self._random.randrange(len(self._messages)), 1, self._message())
        compacted = 0
        if self._random.random() < 0.3:
            compacted = self._random.randrange(20, 80)
            self._replace(self._random.randrange(len(self._messages) // 2), compacted, self._summary(compacted))
        size = sum(map(len, self._messages))
        grown = self._append(int(size * (share if share is not None else self._random.uniform(0.005, 0.02))))
        return f"appended {grown} bytes, edited {edited} messages, compacted {compacted}"

    def compact(self, share: float) -> None:
        """One summary instead of the oldest ones, as agents do when a context is full."""
        count = int(len(self._messages) * share)
        self.fresh = []
        self._replace(0, count, self._summary(count))

    def encode(self) -> bytes:
        """The whole state as one JSON document."""
        head = {
            "session": "bench",
            "step": self.steps,
            "messages_written": self._written,
            "tokens": self._written * 311 + self.steps,
            "note": _prose(random.Random(self.steps), 40 + self.steps % 7),
        }
        start = json.dumps(head).encode()[:-1] + b', "messages": [\n'
        recent = json.dumps([self._written - n for n in range(RECENT)]).encode()
        return b"".join((start, b",\n".join(self._messages), b'\n], "recent": ', recent, b"}\n"))

    def _append(self, wanted_bytes: int) -> int:
        grown = 0
        while grown < wanted_bytes:
            message = self._message()
            self._messages.append(message)
            self.fresh.append(message)
            grown += len(message) + 2
        return grown

    def _replace(self, at: int, count: int, message: bytes) -> None:
        self._messages[at : at + count] = [message]
        self.fresh.append(message)

    def _summary(self, count: int) -> bytes:
        return self._encoded("assistant", f"Summary of {count} messages: {_prose(self._random, 900)}")

    def _message(self) -> bytes:
        chance = self._random
        kind = chance.random()
        if kind < 0.4:
            return self._encoded("assistant", _prose(chance, 40 + int(chance.expovariate(1 / 150))))
        if kind < 0.65:
            name = corpus().names[chance.randrange(len(corpus().names))]
            call = {"tool": chance.choice(TOOLS), "path": f"src/{name}", "line": chance.randrange(3000)}
            return self._encoded("assistant", json.dumps(call))
        return self._encoded("tool", chance.choice((_listing, _hits, _diff, _report))(chance))

    def _encoded(self, role: str, content: str) -> bytes:
        self._written += 1
        chance = self._random
        message = {
            "id": f"{self._written:08x}{chance.getrandbits(32):08x}",
            "time": round(1.79e9 + self._written * 1.4 + chance.random(), 3),
            "role": role,
            "content": content,
            "tokens": chance.randrange(8, 900),
        }
        return json.dumps(message).encode()


def _prose(chance: random.Random, size: int) -> str:
    text = corpus().prose
    start = text.find(" ", chance.randrange(len(text) - size - 200)) + 1
    return text[start : start + size].rsplit(" ", 1)[0]


def _excerpt(chance: random.Random, most: int) -> tuple[str, int, tuple[str, ...]]:
    number = chance.randrange(len(corpus().names))
    lines = corpus().lines[number]
    count = min(most, 2 + int(chance.paretovariate(1.2) * 3))
    start = chance.randrange(max(1, len(lines) - count))
    return corpus().names[number], start, lines[start : start + count]


def _listing(chance: random.Random) -> str:
    _, start, lines = _excerpt(chance, 300)
    return "".join(f"{start + n:6d}\t{line}\n" for n, line in enumerate(lines, 1))


def _hits(chance: random.Random) -> str:
    found = []
    for _ in range(min(60, 1 + int(chance.paretovariate(1.2)))):
        name, start, lines = _excerpt(chance, 2)
        found.append(f"src/{name}:{start + 1}:{lines[0] if lines else ''}\n")
    return "".join(found)


def _diff(chance: random.Random) -> str:
    name, start, lines = _excerpt(chance, 200)
    marked = [f"{chance.choice('      +-')}{line}\n" for line in lines]
    return f"--- a/src/{name}\n+++ b/src/{name}\n@@ -{start},{len(lines)} +{start},{len(lines)} @@\n{''.join(marked)}"


def _report(chance: random.Random) -> str:
    rows = []
    for _ in range(min(80, 2 + int(chance.paretovariate(1.2)))):
        name = corpus().names[chance.randrange(len(corpus().names))]
        verdict = "PASSED" if chance.random() < 0.94 else "FAILED"
        rows.append(f"tests/{name}::test_{chance.getrandbits(20):x} {verdict} [{chance.expovariate(3):6.3f}s]\n")
    return f"$ python -m pytest -q\n{''.join(rows)}{len(rows)} tests in {chance.expovariate(0.1):.2f} s\n"
