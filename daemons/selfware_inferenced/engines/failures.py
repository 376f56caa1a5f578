"""What a failure of an engine means: wait for it, ask it later, begin again, or give up.

Pure: an HTTP status and a body (or an error found inside a stream) in, an exception out. Engines agree on the shape
{"error": {"message", "type", "code"}} and on little else, so a context overflow is told by its words.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import orjson

from selfware_common.errors import SelfwareError
from selfware_inferenced.errors import ContextOverflowError, KeyRefusedError, ModelUnknownError, RequestRefusedError

LONGEST_REASON = 300
OVERFLOW_WORDS = (
    "exceed_context_size",
    "context_length_exceeded",
    "maximum context length",
    "context size",
    "context window",
    "longer than the maximum model length",
)
DYING_WORDS = ("enginecore encountered an issue", "enginedeaderror")
"""How a vLLM answers, with status 500, in the seconds between the death of its worker and its own end."""
WAITING_STATUSES = frozenset({502, 503, 504})  # loading a model, or a proxy whose engine is down
BUSY_STATUSES = frozenset({408, 425, 429})


class Remedy(Enum):
    """What helps against a failure."""

    WAIT = "wait until the engine answers"
    PAUSE = "ask again after a while"
    REPEAT = "generate again from the start"


class EngineFailure(Exception):
    """The engine, not the request, is the reason. Never reaches a user: the request waits or begins again."""

    def __init__(self, remedy: Remedy, reason: str, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.remedy = remedy
        self.reason = reason
        self.pause_seconds = pause_seconds  # what the engine asked for; 0: nothing


def absent() -> EngineFailure:
    """Nothing listens there."""
    return EngineFailure(Remedy.WAIT, "engine is starting")


def lost(reason: str) -> EngineFailure:
    """It was there and is gone, or stopped making sense."""
    return EngineFailure(Remedy.REPEAT, reason)


def of_http(status: int, body: bytes, engine: str, model: str, retry_after: str = "") -> EngineFailure | SelfwareError:
    """The meaning of an HTTP status that is not 200."""
    reason, kind = _reason(body)
    reason = reason or f"HTTP {status}"
    if status in WAITING_STATUSES:
        return absent()
    if status in BUSY_STATUSES:
        return EngineFailure(Remedy.PAUSE, "engine is busy", _seconds(retry_after))
    if status >= 500 and any(word in f"{reason} {kind}".lower() for word in DYING_WORDS):
        return absent()
    if status >= 500 or status < 400:
        return lost(f"the engine answered HTTP {status}: {reason}")
    return _refusal(status, reason, kind, engine, model)


def of_event(error: Any, engine: str, model: str) -> EngineFailure | SelfwareError:
    """The meaning of an error inside a stream that began well: the engine broke, unless it blames the request."""
    reason, kind = _reason(orjson.dumps({"error": error}))
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 500 and code not in BUSY_STATUSES:
        return _refusal(code, reason, kind, engine, model)
    if _is_overflow(f"{kind} {reason}"):
        return ContextOverflowError(engine=engine, reason=reason)
    return lost(f"the engine reported '{reason or 'an error without words'}' in the stream")


def _refusal(status: int, reason: str, kind: str, engine: str, model: str) -> SelfwareError:
    if status == 413 or _is_overflow(f"{kind} {reason}"):
        return ContextOverflowError(engine=engine, reason=reason)
    if status in (401, 403):
        return KeyRefusedError(engine=engine, reason=reason)
    if status == 404:
        return ModelUnknownError(engine=engine, model=model, reason=reason)
    return RequestRefusedError(engine=engine, reason=reason)


def _is_overflow(words: str) -> bool:
    lower = words.lower()
    return any(word in lower for word in OVERFLOW_WORDS)


def _reason(body: bytes) -> tuple[str, str]:
    """(message, type and code) of an error body, on one line; what is no JSON is quoted as it is."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _one_line(body.decode("utf-8", "replace")), ""
    if isinstance(value, dict):
        value = value.get("error", value)
    if isinstance(value, dict):
        message = value.get("message") or value.get("detail") or ""
        return _one_line(str(message)), f"{value.get('type', '')} {value.get('code', '')}"
    return _one_line(str(value)), ""


def _one_line(text: str) -> str:
    words = " ".join(text.split()).rstrip(".")
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}…"


def _seconds(retry_after: str) -> float:
    """Retry-After in seconds; its other form, a date, is not worth reading."""
    return float(retry_after) if retry_after.isdecimal() else 0.0
