"""How long a worker may stand still at what it is doing before it counts as wedged. Pure.

A person who decides, an operator's pause, a queue, a neighbour that restarts: those may take days. A model that writes
must bring the next piece, an action has a time limit that oversightd enforces, an append is answered or retried. A
build of half an hour is none of our business as long as it has half an hour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

UNLIMITED = math.inf
RECORD_SECONDS = 90.0
"""An append is given up and repeated after 30 s; three of those without a word of trouble is no waiting any more."""
MARGIN_SECONDS = 60.0
"""Others have the same limits and act on them first: the engine's stall, the action's timeout."""
LONGEST_ACTION_SECONDS = 600.0
"""Of an action that names no time of its own, unless a check may take longer: the limit that oversightd gives it."""


def for_model(waits_in_queue: bool, stall_timeout_seconds: float) -> float:
    """Until the next piece of the reply."""
    return UNLIMITED if waits_in_queue else stall_timeout_seconds + MARGIN_SECONDS


def for_action(runs: bool, action: Mapping[str, Any], check_timeout_seconds: float) -> float:
    """Until the outcome; `runs` is false while it waits for a person, for room, or for oversightd."""
    if not runs:
        return UNLIMITED
    longest = max(LONGEST_ACTION_SECONDS, check_timeout_seconds)
    return float(action.get("timeout_seconds") or longest) + MARGIN_SECONDS
