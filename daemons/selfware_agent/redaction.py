"""Takes secrets out of what actions printed before it is remembered: the journal and every checkpoint keep it for days.

Only what has a form of its own is recognised, so that nothing else is lost: a hash, a uuid or a random word stays. The
operator adds patterns ([checkpoint] redact_patterns). What is taken out never reaches the model either. Pure.

Forms: GitHub (docs.github.com, "About authentication to GitHub"), GitLab ("Token overview"), AWS IAM ("Unique
identifiers"), Slack ("Token types"), Google Cloud ("API keys"), OpenAI, Anthropic, Stripe ("API keys"), PyPI,
npm; RFC 7468 for private keys; RFC 3986 for passwords in addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

KNOWN = (
    ("private key", r"-----BEGIN (?P<kind>[A-Z ]*)PRIVATE KEY-----[\s\S]*?(?:-----END (?P=kind)PRIVATE KEY-----|\Z)"),
    ("GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b"),
    ("GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("AWS access key", r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    (
        "AWS secret key",
        r"(?i:aws_secret_access_key['\"]?\s*[=:]\s*['\"]?)(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])",
    ),
    ("Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("Google API key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("API key", r"\bsk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{32,}"),
    ("Stripe key", r"\b[rs]k_live_[A-Za-z0-9]{20,}"),
    ("PyPI token", r"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    ("npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("password", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,100}:(?P<secret>[^\s/@]{1,200})@"),
)


@dataclass(frozen=True)
class Redactor:
    """What to look for, in this order."""

    forms: tuple[tuple[str, re.Pattern[str]], ...] = ()

    @classmethod
    def of(cls, enabled: bool, more: Sequence[str]) -> Redactor:
        """From the settings; ValueError names a pattern that is no regular expression."""
        forms: Iterable[tuple[str, str]] = (*KNOWN, *(("secret", one) for one in more)) if enabled else ()
        compiled = []
        for name, pattern in forms:
            try:
                compiled.append((name, re.compile(pattern)))
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return cls(tuple(compiled))

    def clean(self, text: str) -> tuple[str, int]:
        """The text without what was recognised, and how much that was."""
        count = 0
        for name, pattern in self.forms:
            text, found = pattern.subn(partial(_without, name), text)
            count += found
        return text, count


def _without(name: str, match: re.Match[str]) -> str:
    """Only the secret goes, where a form says what of it that is."""
    if "secret" not in match.re.groupindex or match["secret"] is None:
        return f"[redacted: {name}]"
    start, end = (place - match.start() for place in match.span("secret"))
    whole = match.group()
    return f"{whole[:start]}[redacted: {name}]{whole[end:]}"
