"""Benchmark: a LangGraph graph whose state grows by 2 KB a step, durable at each: SelfwareSaver beside SqliteSaver.

Owns both stores, below a directory on a real disk. The graph is the one of `peers/langgraph_steps`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from selfware_langgraph import SelfwareSaver
from tests.bench.common import line, say, timed
from tests.bench.history import whole_text
from tests.bench.peers.langgraph_steps import grow
from tests.bench.served import Checkpointd, tree_bytes

CONFIG: Any = {"configurable": {"thread_id": "bench"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--no-peers", action="store_true")
    given = parser.parse_args()
    whole_text()  # read before anything is timed
    ours = selfware(given.steps)
    peers = dict.fromkeys(ours) if given.no_peers else sqlite(given.steps)
    for (metric, unit), value in ours.items():
        peer = peers.get((metric, unit))
        line("langgraph", metric, unit, value, peer="langgraph-checkpoint-sqlite", peer_value=peer, n=given.steps)


def selfware(steps: int) -> dict[tuple[str, str], float]:
    """The graph on a checkpointd of its own; then a new saver, which knows nothing yet, reads the last state."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, Checkpointd(Path(directory)) as server:
        with SelfwareSaver(server.socket) as saver:
            seconds = grow(saver, steps)
        say(f"selfware: {steps} steps in {seconds:.1f} s")
        with SelfwareSaver(server.socket) as saver:
            return measured(saver, steps, seconds, server.stored_bytes())


def sqlite(steps: int) -> dict[tuple[str, str], float]:
    """The same graph on SQLite."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        with SqliteSaver.from_conn_string(f"{directory}/peer.db") as saver:
            seconds = grow(saver, steps)
        say(f"sqlite: {steps} steps in {seconds:.1f} s")
        stored = tree_bytes(Path(directory))
        with SqliteSaver.from_conn_string(f"{directory}/peer.db") as saver:
            return measured(saver, steps, seconds, stored)


def measured(saver: Any, steps: int, seconds: float, stored: int) -> dict[tuple[str, str], float]:
    """What both are asked for."""
    first = timed(lambda: saver.get_tuple(CONFIG))
    return {
        ("step_seconds", "s"): seconds / steps,
        ("stored_bytes", "B"): stored,
        ("first_read_seconds", "s"): first,
    }


if __name__ == "__main__":
    main()
