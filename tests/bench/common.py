"""What the benchmarks share: one JSON object per line on stdout, progress on stderr, medians over interleaved runs.

`ratio` is how much better we are than the peer measured in the same run: peer / ours for times and sizes, ours / peer
for rates. Absolute times are printed and never asserted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HIGHER_IS_BETTER = frozenset({"1/s", "ratio"})


def line(
    bench: str, metric: str, unit: str, value: float, *, peer: str = "", peer_value: float | None = None, n: int = 1
) -> None:
    """Print one result."""
    ratio = None
    if peer_value is not None and value and peer_value:
        ratio = round(value / peer_value if unit in HIGHER_IS_BETTER else peer_value / value, 3)
    record = {
        "bench": bench,
        "metric": metric,
        "unit": unit,
        "value": _rounded(value),
        "peer": peer or None,
        "peer_value": None if peer_value is None else _rounded(peer_value),
        "ratio": ratio,
        "n": n,
    }
    print(json.dumps(record), flush=True)


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def timed(call: Callable[[], object]) -> float:
    """Seconds one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@contextmanager
def stopwatch(into: list[float]) -> Iterator[None]:
    """Append the seconds the block took."""
    begin = time.perf_counter()
    yield
    into.append(time.perf_counter() - begin)


def median(values: list[float]) -> float:
    return statistics.median(values)


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile; share 0.95 is p95."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
