"""Proof: under a real systemd, whatever is killed or hangs comes back by itself, and the job goes on.

A booted machine works on a job with the scripted engine. Each round disturbs one process: SIGKILL; SIGSTOP, which only
the watchdog can notice; a Python deadlock of the main thread, set off inside the daemon; or an engine that hangs. The
time from the disturbance to the next step of the job is measured with the machine's own clock, from the events that the
agent publishes. After a hang the journal must hold the stack of every thread. At the end the books are compared with
what happened in the workspace.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import time
from collections import defaultdict

from tests.prove.common import Verdict, arguments, report, say
from tests.system import image, installed
from tests.system.machine import Machine

WATCHDOG_SECONDS = 3.0  # [supervision.health_check] interval_seconds * failure_threshold
SETTINGS = """[supervision]
max_restarts = 100
max_seconds = 10
[supervision.backoff_strategy]
type = "Fixed"
base_seconds = 0
[supervision.health_check]
interval_seconds = 1
failure_threshold = 3
"""
DEADLOCK = "/etc/systemd/system/selfware-{name}.service.d/deadlock.conf"
EVENTS_OF_A_TASK_AND_MORE = 24
KINDS = ("kill", "kill", "kill", "stop", "deadlock", "kill", "engine hangs", "kill")


def set_up(machine: Machine) -> None:
    """Everything under the scripted engine, every daemon able to deadlock on SIGUSR2."""
    installed.put_on(machine, start=False)
    machine.write("/etc/selfware/selfware.toml.d/proof.toml", SETTINGS)
    for name in installed.DAEMONS:
        start = f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 -I /opt/deadlock.py {name}\n"
        machine.write(DEADLOCK.format(name=name), start)
    # Engines have a limit of their own, which so many kills would soon reach.
    limit = "[Unit]\nStartLimitIntervalSec=0\n"
    machine.write("/etc/systemd/system/selfware-engine@scripted.service.d/z-proof.conf", limit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "selfware.target", timeout=120)
    installed.all_active(machine)
    machine.shell(
        "systemd-run -q --unit=watch --service-type=exec sh -c 'exec python3 /opt/job.py watch 0 >/run/watch'"
    )


def disturb(machine: Machine, kind: str, unit: str) -> float:
    """Do it; the machine's monotonic clock just before."""
    signals = {"kill": "KILL", "stop": "STOP", "deadlock": "USR2", "engine hangs": "STOP"}
    script = (
        f"import os, signal, time; pid = int(os.popen('systemctl show --value -p MainPID {unit}').read()); "
        f"print(time.monotonic(), flush=True); os.kill(pid, signal.SIG{signals[kind]})"
    )
    return float(machine.run("python3", "-c", script).stdout)


def next_step(machine: Machine, after: float, limit: float) -> float:
    """The longest pause between two steps from `after` on, over more than a whole task: so long the job stood still.
    Whoever was disturbed is needed at least once in that time."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        lines = [line.split() for line in machine.read("/run/watch").splitlines()[-400:]]
        later = [float(words[1]) for words in lines if len(words) == 2 and float(words[1]) > after]
        if len(later) >= EVENTS_OF_A_TASK_AND_MORE:
            return max(b - a for a, b in itertools.pairwise([after, *later]))
        time.sleep(0.05)
    raise AssertionError(f"no step within {limit} s: {machine.run('selfwarectl', 'status', check=False).stdout}")


def prove(rounds: int, seed: int, *, timed: bool) -> Verdict:
    """So many disturbances in one machine's life; prints a line of seconds for each kind. With `timed`, for an
    otherwise idle machine, the seconds are part of the proof."""
    chance = random.Random(seed)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    submitted = hangs_without_stacks = 0
    with Machine(image.machine_image()) as machine:
        set_up(machine)
        for number in range(rounds):
            if number * 12 + 60 > submitted:
                installed.job(machine, "submit", submitted, 60)
                submitted += 60
            kind = KINDS[number % len(KINDS)]
            victim = "engine" if kind == "engine hangs" else chance.choice((*installed.DAEMONS, "engine"))
            if kind == "deadlock" and victim == "engine":
                victim = "agent"
            time.sleep(chance.uniform(0.1, 0.6))
            marker = machine.run("date", "+%s.%N").stdout.strip()
            unit = installed.ENGINE if victim == "engine" else f"selfware-{victim}.service"
            before = machine.main_pid(unit)
            began = disturb(machine, kind, unit)
            times[kind, victim].append(next_step(machine, began, 40))
            machine.wait_for(f"! systemctl show -p MainPID {unit} | grep -qx MainPID={before}", 30)
            installed.all_active(machine, 30)
            if kind in {"stop", "deadlock"} and victim != "engine":
                said = machine.run(
                    "journalctl", "-u", f"selfware-{victim}", "--since", f"@{marker}", "-o", "cat"
                ).stdout
                hangs_without_stacks += "Current thread" not in said and "most recent call first" not in said
            say(f"{number + 1}: {kind} {victim}: {times[kind, victim][-1]:.2f} s to the next step")
        installed.job(machine, "wait", 1, 60)
        told = installed.verdict(machine)
    ok = not (told["lost"] or told["duplicated"] or told["gaps"] or hangs_without_stacks)
    for kind in dict.fromkeys(KINDS):
        values = sorted(second for (one, _), seconds in times.items() if one == kind for second in seconds)
        p95 = values[min(len(values) - 1, int(len(values) * 0.95))]
        ok = ok and (not timed or p95 < (1.0 if kind == "kill" else WATCHDOG_SECONDS + 2.0))
        line = {"kind": kind, "n": len(values), "median_seconds": round(statistics.median(values), 3)}
        print(json.dumps({"proof": "systemd_kills", **line, "p95_seconds": round(p95, 3)}), flush=True)
    lost = told["lost"] + told["gaps"] + hangs_without_stacks
    return Verdict("systemd_kills", seed, rounds, rounds, lost, told["duplicated"], told["unknown"], ok)


if __name__ == "__main__":
    given = arguments("systemd_kills", rounds=104)
    sys.exit(report(prove(given.rounds, given.seed, timed=True)))
