"""Proof: an action that runs away dies alone.

On a machine with a kernel of its own (cgroup v2): an action that takes one and a half times the machine's memory, a
fork bomb, one that fills the disk, and many that leave processes behind. Afterwards no daemon is another process than
before, and none of the actions' processes is left.
"""

from __future__ import annotations

import json
import sys

from tests.prove.common import Verdict, arguments, report, say
from tests.system import image, installed
from tests.system.guest import Guest
from tests.system.qemu import VirtualMachine

MEMORY_MIB = 2048
WORKSPACE = "/var/lib/selfware/workspaces/w"
HOG = f"""python3 -c "
blocks = []
while sum(map(len, blocks)) < {MEMORY_MIB * 3 // 2} << 20:
    blocks.append(bytearray(b'x') * (32 << 20))
print('took it all')
" """
FORK_BOMB = "bomb() { bomb | bomb & }; bomb; sleep 8"
FILLER = "i=0; while :; do head -c 200M /dev/zero > fill$i || exit 1; i=$((i+1)); done"


def pids(guest: Guest) -> dict[str, int]:
    """The process of every daemon and the engine."""
    return {unit: guest.main_pid(unit) for unit in installed.UNITS}


def runaways(guest: Guest) -> list[str]:
    """Let each run; what was wrong, in sentences."""
    wrong = []
    before = pids(guest)
    tries = (
        ("memory", HOG, {}, "SIGKILL"),
        ("processes", FORK_BOMB, {"timeout_seconds": 40}, ""),
        ("disk", FILLER, {"timeout_seconds": 900, "file_bytes": 0}, "nearly full"),
    )
    for name, text, limits, expected in tries:
        told = installed.script(guest, text, WORKSPACE, wait_seconds=1000, **limits)
        say(f"{name}: {told.get('sentence', told)}")
        if told["state"] != "done" or expected not in told["sentence"] or "took it all" in told["output"]:
            wrong.append(f"{name}: {told}")
        guest.shell(f"rm -rf {WORKSPACE}/fill*")
        if (after := pids(guest)) != before:
            wrong.append(f"{name}: daemons were restarted: {before} -> {after}")
    return wrong


def many(guest: Guest, count: int) -> list[str]:
    """So many actions that leave processes behind; what was wrong."""
    before = pids(guest)
    done = guest.run("python3", "/opt/many.py", str(count), WORKSPACE, timeout=60 + 6 * count)
    told = json.loads(done.stdout)
    say(str(told))
    wrong = [f"many: {told}"] if told["well"] != count or told["orphans"] else []
    return wrong if pids(guest) == before else [*wrong, "many: daemons were restarted"]


def prove(rounds: int, seed: int) -> Verdict:
    """`rounds`: how many actions that leave processes behind."""
    with VirtualMachine(image.disk_image(), MEMORY_MIB) as vm:
        installed.put_on_disk(vm)
        say(f"booted in {vm.boot():.0f} s")
        installed.all_active(vm, 180)
        wrong = [*runaways(vm), *many(vm, rounds)]
    for one in wrong:
        say(one)
    return Verdict("runaways", seed, rounds, 3 + rounds, len(wrong), 0, 0, not wrong)


if __name__ == "__main__":
    given = arguments("runaways", rounds=1000)
    sys.exit(report(prove(given.rounds, given.seed)))
