"""Keeps long text useful: the beginning and the end stay, the middle is counted."""

from __future__ import annotations

MAX_TEXT_CHARS = 8000


def shorten(text: str, limit: int) -> str:
    """At most about `limit` characters; errors stand at the end of a log, so two thirds of the room go there."""
    if len(text) <= limit:
        return text
    head = limit // 3
    tail = limit - head
    return f"{text[:head]}\n... {len(text) - limit} characters left out ...\n{text[-tail:]}"
