"""Whether an engine that answers also computes: /health says 200 while not a token comes, for hours if need be.

Reads the engine's own Prometheus counters. Requests run and nothing was computed for longer than the stall timeout: the
launcher then no longer tells systemd that all is well, and the watchdog ends the engine. A prompt that is read for a
minute, or a question that is not answered during one long step, is no standstill yet.
Names: llama.cpp tools/server/README (GET /metrics); vLLM docs, Production Metrics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from selfware_common import http_health

RUNNING = ("llamacpp:requests_processing", "vllm:num_requests_running")
WORK = (
    "llamacpp:n_decode_total",
    "llamacpp:prompt_tokens_total",
    "llamacpp:tokens_predicted_total",
    "vllm:iteration_tokens_total_sum",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)
SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (?P<value>\d+(?:\.\d*)?(?:e[+-]?\d+)?)\b")


@dataclass(frozen=True)
class Counters:
    """Requests under way, and everything that was ever computed, in whatever the engine counts."""

    running: float
    work: float


def counters(metrics: str) -> Counters | None:
    """From the Prometheus text format; None when it has none of the names we know. Pure."""
    known, running, work = False, 0.0, 0.0
    for line in metrics.splitlines():
        found = SAMPLE.match(line)
        if found is None or (found["name"] not in RUNNING and found["name"] not in WORK):
            continue
        known, number = True, float(found["value"])
        running, work = (running + number, work) if found["name"] in RUNNING else (running, work + number)
    return Counters(running, work) if known else None


class Progress:
    """Remembers when the engine last moved, or had nothing to do."""

    def __init__(self, stall_seconds: float, now: float) -> None:
        self.stall_seconds = stall_seconds
        self.still_since = now
        self._work = -1.0

    def take(self, status: int, seen: Counters | None, now: float) -> bool:
        """Whether it may count as alive, after one more look: `status` 0 is no answer. An engine that publishes
        nothing we know is judged by its health alone."""
        if status and (seen is None or not seen.running or seen.work != self._work):
            self.still_since = now
        if seen is not None:
            self._work = seen.work
        return now - self.still_since <= self.stall_seconds


async def works(socket_path: Path, progress: Progress, now: float) -> bool:
    """Ask once."""
    status, body = await http_health.get(socket_path, "/metrics")
    return progress.take(status, counters(body.decode("utf-8", "replace")) if status == 200 else None, now)
