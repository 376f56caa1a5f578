"""The benches print what the contract promises: valid JSON lines with the promised metrics, at tiny sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.workload import Session

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["bench", "metric", "unit", "value", "peer", "peer_value", "ratio", "n"]
PROMISED = {
    "checkpoint --size-mb 2 --steps 2": {
        "incremental_save_seconds",
        "process_save_seconds",
        "first_save_seconds",
        "restore_seconds",
        "stored_bytes",
        "floor_share",
    },
    "journal --rounds 20 --seconds 0.3": {
        "append_durable_seconds",
        "append_durable_seconds_grpc",
        "append_durable_seconds_grpc_stream",
        "appends_per_second_32",
        "appends_per_second_32_unary",
        "appends_per_second_32_shared",
        "records_per_second_64",
    },
    "recovery --no-peers --only recover --only storage --events 200 --steps 20": {
        "recover_200_events_seconds",
        "recover_200_events_seconds_inprocess",
        "recover_200_events_seconds_agent",
        "stored_bytes_20_steps",
    },
}


@pytest.mark.parametrize("command", PROMISED)
def test_a_bench_prints_its_promised_lines(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *f"tests.bench.{command}".split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert all(list(line) == KEYS for line in lines)
    assert {line["bench"] for line in lines} == {command.split()[0]}
    # A difference of two times may be anything when both are tiny.
    assert all(line["value"] > 0 for line in lines if not line["metric"].endswith("less_start_up"))
    assert PROMISED[command] <= {line["metric"] for line in lines}


def test_the_same_seed_makes_the_same_session_and_a_step_changes_little_of_it() -> None:
    one, other = Session(300_000, seed=7), Session(300_000, seed=7)
    for _ in range(5):
        before = one.encode()
        assert before == other.encode()
        one.step()
        other.step()
        assert sum(map(len, one.fresh)) < 0.2 * len(before)
    assert Session(300_000, seed=8).encode() != Session(300_000, seed=7).encode()
