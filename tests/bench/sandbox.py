"""Benchmark: what a sandbox costs an action under systemd, beside a plain child process and bubblewrap.

On a booted machine, each way in turn; seconds from asking to the end of /bin/true. Warm: a unit opened ahead waited for
the action. Cold: nothing was ready.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict

from tests.bench.common import line, median, percentile, say
from tests.system import image, installed
from tests.system.machine import Machine

WORKSPACE = "/var/lib/selfware/workspaces/w"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench BENCH=sandbox")
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = defaultdict(list)
    with Machine(image.machine_image()) as machine:
        installed.put_on(machine)
        machine.shell(f"mkdir -p {WORKSPACE}")
        say(f"{rounds} rounds of four ways")
        told = machine.run("python3", "/opt/time_sandbox.py", str(rounds), WORKSPACE, timeout=60 + rounds * 5)
    for one in map(json.loads, told.stdout.splitlines()):
        seconds[one["way"]].append(one["seconds"])
    for way in ("warm", "cold"):
        for peer in ("subprocess", "bubblewrap"):
            line(
                "sandbox", f"start_seconds_{way}", "s", median(seconds[way]),
                peer=peer, peer_value=median(seconds[peer]), n=rounds,
            )  # fmt: skip
            line(
                "sandbox", f"start_seconds_{way}_p95", "s", percentile(seconds[way], 0.95),
                peer=peer, peer_value=percentile(seconds[peer], 0.95), n=rounds,
            )  # fmt: skip


if __name__ == "__main__":
    main()
