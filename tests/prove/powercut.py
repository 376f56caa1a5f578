"""Proof: pulling the plug costs nothing that was acknowledged, and no action runs twice.

A virtual machine with its own disk works on a job; again and again QEMU is killed at a random moment and the same disk
booted. After every boot the target comes up by itself, the journal of the session holds at least every event that was
acknowledged before the cut, and the work goes on. In the end each run of a check is in the log of the workspace exactly
once; actions that were in flight at a cut are shown as of unknown outcome, and may have run or not, but never twice.
"""

from __future__ import annotations

import random
import sys

from tests.prove.common import Verdict, arguments, report, say
from tests.system import image, installed
from tests.system.guest import CommandFailedError
from tests.system.qemu import VirtualMachine

WATCH = "systemd-run -q --unit=watch --service-type=exec sh -c 'exec python3 /opt/job.py watch 0 >/run/watch'"
MEMORY_MIB = 2048
TASKS_AT_ONCE = 30
LONGEST_SECONDS = 12.0


def acknowledged(vm: VirtualMachine) -> int:
    """Events that the agent had been told are durable."""
    seen = vm.shell("tail -n 1 /run/watch 2>/dev/null", check=False).stdout.split()
    return int(seen[0]) if seen else 0


def prove(rounds: int, seed: int) -> Verdict:
    """So many cuts in one machine's life."""
    chance = random.Random(seed)
    lost = duplicated = not_up = cuts = submitted = 0
    with VirtualMachine(image.disk_image(), MEMORY_MIB) as vm:
        installed.put_on_disk(vm)
        say(f"booted in {vm.boot():.0f} s")
        installed.all_active(vm, 180)
        say("everything is up")
        for number in range(rounds):
            if number * 4 + TASKS_AT_ONCE > submitted:
                installed.job(vm, "submit", submitted, TASKS_AT_ONCE, timeout=600)
                submitted += TASKS_AT_ONCE
            vm.shell(WATCH)
            vm.wait_for("test -s /run/watch", 120)
            start = acknowledged(vm)
            vm.wait_for(f"[ $(tail -n 1 /run/watch | cut -d' ' -f1) -gt {start} ]", 180)
            vm.shell(f"sleep {chance.uniform(0, LONGEST_SECONDS):.2f}")
            before = acknowledged(vm)
            vm.power_cut()
            seconds = vm.boot()
            try:
                installed.all_active(vm, 180)
            except (AssertionError, CommandFailedError) as error:
                say(f"the target did not come up: {error}; {vm.shell('systemctl --failed', check=False).stdout}")
                not_up += 1
            told = installed.verdict(vm)
            cuts += 1
            lost += max(0, before - told["events"]) + told["lost"] + told["gaps"]
            duplicated += told["duplicated"]
            say(f"cut {number + 1}: booted in {seconds:.0f} s, {before} events acknowledged, {told}")
            if lost or duplicated:
                break
        installed.job(vm, "wait", 1, 60, timeout=300)
        told = installed.verdict(vm)
    lost, duplicated = lost + told["lost"] + told["gaps"], duplicated + told["duplicated"]
    ok = not (lost or duplicated or not_up)
    return Verdict("powercut", seed, rounds, cuts, lost, duplicated, told["unknown"], ok)


if __name__ == "__main__":
    given = arguments("powercut", rounds=50)
    sys.exit(report(prove(given.rounds, given.seed)))
