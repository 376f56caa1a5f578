"""What the long proofs share: arguments, progress on stderr, one JSON line per result on stdout."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Verdict:
    """One line of a proof's output; `ok` is false when anything was lost, duplicated or differed."""

    proof: str
    seed: int
    rounds: int
    faults: int
    lost: int
    duplicated: int
    unknown: int
    ok: bool


def arguments(name: str, rounds: int) -> argparse.Namespace:
    """--seed and --rounds; the seed is printed so that a failure can be repeated."""
    parser = argparse.ArgumentParser(prog=f"make prove PROOF={name}")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--rounds", type=int, default=rounds)
    parsed = parser.parse_args()
    say(f"{name}: seed {parsed.seed}, {parsed.rounds} rounds")
    return parsed


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def report(verdict: Verdict) -> int:
    """Print the line; the exit status says whether it holds."""
    print(json.dumps(asdict(verdict)), flush=True)
    return 0 if verdict.ok else 1
