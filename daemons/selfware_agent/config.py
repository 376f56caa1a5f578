"""The agent's own view of selfware.toml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from selfware_agent.plan import Limits
from selfware_agent.redaction import Redactor
from selfware_common.errors import ConfigError
from selfware_common.settings import Settings

WRITER = "selfware-agent"
"""How the names begin under which agents open sessions."""


class Known(Protocol):
    """What ListSessions says of one."""

    session_id: str
    writer_id: str
    opened_unix_nanos: int


@dataclass(frozen=True)
class Defaults:
    """What a goal gets when it does not say."""

    strategy: str
    max_attempts: int
    budget_tokens: int
    budget_seconds: float


def limits(settings: Settings) -> Limits:
    """What one task may use."""
    agent = settings.agent
    return Limits(
        max_steps=agent.max_steps,
        max_reply_tokens=agent.max_reply_tokens,
        temperature=agent.temperature,
        check_timeout_seconds=agent.check_timeout_seconds,
        context_tokens=settings.llm.context.max_tokens,
        stall_timeout_seconds=settings.llm.stall_timeout_seconds,
    )


def defaults(settings: Settings) -> Defaults:
    """What a goal gets when it does not say."""
    agent = settings.agent
    return Defaults(
        strategy=agent.strategy,
        max_attempts=agent.max_attempts,
        budget_tokens=agent.budget_tokens,
        budget_seconds=agent.budget_hours * 3600,
    )


def redactor(settings: Settings, path: Path) -> Redactor:
    """What is taken out of outputs; ConfigError if a pattern is none."""
    wanted = settings.checkpoint
    try:
        return Redactor.of(wanted.redact_secrets, wanted.redact_patterns)
    except ValueError as error:
        raise ConfigError(path=path, problem=f"checkpoint.redact_patterns: {error}") from error


def session_id(settings: Settings, known: Sequence[Known]) -> str:
    """The session to continue: the configured one; with "auto" the one that an agent worked on last, or "main".

    Sessions of other programs and forks that nobody has chosen yet are not ours to continue.
    """
    if settings.system.session_id != "auto":
        return settings.system.session_id
    ours = [one for one in known if one.writer_id.startswith(WRITER)]
    return max(ours, key=lambda one: one.opened_unix_nanos).session_id if ours else "main"
