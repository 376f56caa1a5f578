"""Proof: nothing that the machine does to checkpointd's files costs what was acknowledged.

Per seed one workload (sessions, appends, saves, retention, sealing, fencing, restarts), and for every point at which it
touches a file: a crash before and after, a torn write, power cuts in which whatever was not synced is there, not there
or partly there, also after a kill and a restart (``crash_runs``, ``page_cache``); each of ENOSPC, EIO, EDQUOT and
EROFS, once or until the writer has heard of it twice; and EIO for every read. Besides, real processes are killed with
SIGKILL. After each the plain product must open the files, have every acknowledged event and checkpoint byte for byte
and any other wholly or not at all, verify, give a new epoch, refuse the old one, and go on (``survival``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.prove.common import Verdict, arguments, report, say

MEMORY_FILES = Path("/dev/shm")  # only for speed: any directory does
ROOT = Path(__file__).parents[2]
WORKLOAD_STEPS = 32
KILLS = 600
KILLS_PER_PROCESS = 150
AT_ONCE = 2
FAULTS = (
    "crash",
    "torn write",
    "power cut",
    "power cut in a second life",
    "power cut after an error",
    "told in a sentence",
    "absorbed",
    "kill -9",
)


@dataclass(frozen=True)
class Work:
    """What one process does."""

    part: str
    seed: int
    length: int


def fast_directory() -> tempfile.TemporaryDirectory[str]:
    """A place where a sync costs nothing, if there is one."""
    usable = MEMORY_FILES.is_dir() and os.access(MEMORY_FILES, os.W_OK)
    return tempfile.TemporaryDirectory(prefix="selfware-proof-", dir=MEMORY_FILES if usable else None)


def done(work: Work) -> tuple[Counter[str], list[str]]:
    """Let a fresh process do it."""
    with fast_directory() as base:
        argv = [sys.executable, "-m", "tests.prove.crash_worker", work.part, base, str(work.seed), str(work.length)]
        ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        return Counter(), [f"{work}: the proof itself failed: {ran.stderr[-2000:]}"]
    told = json.loads(ran.stdout)
    say(f"{work.part}, seed {work.seed}: {told['counts']}, {len(told['wrong'])} wrong")
    return Counter(told["counts"]), told["wrong"]


def prove(rounds: int, seed: int, steps: int = WORKLOAD_STEPS, kills: int = KILLS) -> Verdict:
    """`rounds` workloads, each with a seed of its own; so many kills besides."""
    works = [Work(part, seed + number, steps) for number in range(rounds) for part in ("errors", "crashes", "reads")]
    share = min(kills, KILLS_PER_PROCESS)
    works += [Work("kills", seed + number, share) for number in range(kills // share)]
    counts = {part: Counter[str]() for part in ("crashes", "errors", "reads", "kills")}
    wrong: list[str] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for work, (counted, complaints) in zip(works, pool.map(done, works), strict=True):
            counts[work.part] += counted
            wrong += complaints
    for part, counted in counts.items():
        print(json.dumps({"proof": "crashmatrix", "part": part, "seed": seed, **counted}), flush=True)
    for one in wrong[:200]:
        say(one)
    faults = sum(sum(counted[kind] for kind in FAULTS) for counted in counts.values())
    lost = sum("lost" in one or "WRONG BYTES" in one for one in wrong)
    return Verdict("crashmatrix", seed, rounds, faults, lost, sum("twice" in one for one in wrong), 0, not wrong)


if __name__ == "__main__":
    given = arguments("crashmatrix", rounds=8)
    sys.exit(report(prove(given.rounds, given.seed)))
