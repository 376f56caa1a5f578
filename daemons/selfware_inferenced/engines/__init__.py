"""The one small interface behind which every engine stands, whatever serves it and wherever.

An engine turns one prompt into a stream of pieces and can say whether it is up. It holds no queue and never retries;
hanging up (closing the stream) makes it stop generating. What goes wrong is either a SelfwareError, which asking
again would not mend, or an EngineFailure (failures.py), which it would.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Prompt:
    """What is asked of an engine, checked and complete."""

    model: str
    messages: tuple[tuple[str, str], ...]  # (role, content)
    max_tokens: int = 0  # 0: the engine's limit
    temperature: float = 0.0
    top_p: float = 0.0  # 0: the engine's default
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    priority: int = 0  # higher goes first, where the engine knows priorities


@dataclass(frozen=True)
class Accepted:
    """The engine took the prompt. Not yet a sign of progress."""


@dataclass(frozen=True)
class Prefilled:
    """The engine read more of the prompt."""


@dataclass(frozen=True)
class Text:
    """The next part of the reply."""

    text: str
    tokens: int


@dataclass(frozen=True)
class End:
    """The reply is complete; the token counts are None where the engine did not say."""

    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


Piece = Accepted | Prefilled | Text | End


@dataclass(frozen=True)
class Health:
    """What an engine answered to 'are you there?'."""

    ready: bool
    sentence: str
    answers: bool = False  # even if only with a refusal, which a request then turns into an error
    context_tokens: int = 0  # 0: not said


class Engine(Protocol):
    """Anything that generates."""

    @property
    def address(self) -> str:
        """Where it is, for people."""
        ...

    def generate(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Accepted, then pieces, then End. Raises EngineFailure or a SelfwareError."""
        ...

    async def health(self) -> Health:
        """Whether it would take a prompt now. Never raises."""
        ...

    async def close(self) -> None:
        """Let go of all connections; nobody may still be reading a stream."""
        ...
