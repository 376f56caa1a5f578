"""Proof: no call is lost while a daemon is killed or restarted.

Every daemon of a booted machine is called twenty times a second with the retry policy that our daemons use among each
other, while each in turn is killed (`kill -9`) and restarted (`systemctl restart`) again and again.
"""

from __future__ import annotations

import json
import random
import sys
import time

from tests.prove.common import Verdict, arguments, report, say
from tests.system import image, installed
from tests.system.machine import Machine

SETTINGS = """[supervision]
max_restarts = 1000
max_seconds = 10
[supervision.backoff_strategy]
type = "Fixed"
base_seconds = 0
"""
RESTARTS_PER_KILL = 2 / 3


def prove(rounds: int, seed: int) -> Verdict:
    """`rounds` kills and two thirds as many restarts of each daemon."""
    chance = random.Random(seed)
    with Machine(image.machine_image()) as machine:
        installed.put_on(machine, start=False)
        machine.write("/etc/selfware/selfware.toml.d/proof.toml", SETTINGS)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "selfware.target", timeout=120)
        installed.all_active(machine)
        calling = "systemd-run -q --unit=steady --service-type=exec sh -c 'exec python3 /opt/steady.py >/run/steady'"
        machine.shell(calling)
        time.sleep(1)
        faults = 0
        for name in installed.DAEMONS:
            unit = f"selfware-{name}.service"
            verbs = ["kill"] * rounds + ["restart"] * round(rounds * RESTARTS_PER_KILL)
            chance.shuffle(verbs)
            for verb in verbs:
                words = ("kill", "-s", "KILL", unit) if verb == "kill" else ("restart", unit)
                machine.run("systemctl", *words)
                faults += 1
                installed.all_active(machine, 30)
                time.sleep(chance.uniform(0.05, 0.2))
            say(f"{name}: {len(verbs)} times gone and back")
        machine.run("systemctl", "stop", "steady")
        told = [json.loads(line) for line in machine.read("/run/steady").splitlines()]
    for one in told:
        say(str(one))
    lost = sum(one["failed"] for one in told)
    return Verdict("calls", seed, rounds, faults, lost, 0, 0, not lost and len(told) == len(installed.DAEMONS))


if __name__ == "__main__":
    given = arguments("calls", rounds=30)
    sys.exit(report(prove(given.rounds, given.seed)))
