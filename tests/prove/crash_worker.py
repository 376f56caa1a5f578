"""One process of the crash matrix: installs the fault-injecting layer, then does one part for one seed.

Started by ``crashmatrix``, a fresh process each time, because the layer must be there before the product is imported.
Prints one JSON line: counts and everything that was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.prove.faulty_files import FaultyFiles


def main() -> int:
    """Do the part that was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["crashes", "errors", "reads", "kills"])
    parser.add_argument("base", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("length", type=int, help="steps of the workload, or how many kills")
    given = parser.parse_args()
    layer = FaultyFiles()
    if given.part != "kills":
        layer.install()
    from tests.prove.crash_runs import CrashRuns
    from tests.prove.kill_runs import KillRuns
    from tests.prove.storage_workload import use_cold_tier, use_late_threads, use_small_segments

    use_small_segments()
    use_late_threads()
    if given.seed % 2:
        use_cold_tier()
    if given.part == "kills":
        runs: CrashRuns | KillRuns = KillRuns(given.base, given.seed)
        runs.kills(given.length)
    else:
        runs = CrashRuns(layer, given.base, given.seed, given.length)
        getattr(runs, given.part)()
    sys.stdout.write(json.dumps({"counts": runs.counts, "wrong": runs.wrong}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
