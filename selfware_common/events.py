"""How an event looks on its way to the journal: a kind, a JSON payload, a sequence.

Mechanism only: which kinds exist and what they mean belongs to the daemon that writes them. The encoding is canonical
(sorted keys, no spaces), so that the same event has the same bytes and a repeated append can be recognised.
"""

from __future__ import annotations

from typing import Any

import orjson

OPTIONS = orjson.OPT_SORT_KEYS


def encode(payload: dict[str, Any]) -> bytes:
    """Canonical JSON bytes."""
    return orjson.dumps(payload, option=OPTIONS)


def decode(data: bytes) -> dict[str, Any]:
    """Raises ValueError when `data` is not a JSON object."""
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise ValueError("an event payload must be a JSON object")
    return value
