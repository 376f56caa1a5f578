"""Proof: an action runs exactly once, whatever dies while it runs.

A non-idempotent action (append a line to a file, sleep, append again) is interrupted by `kill -9` of the agent, of
oversightd, or of both, at a random moment of its life. Afterwards each of its two lines stands there exactly once.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.prove.common import Verdict, arguments, report, say
from tests.rig import Job, Rig, effect_ids, temporary_home

PER_STACK = 25
SLEEP_SECONDS = 0.6


def script(count: int) -> list[dict[str, Any]]:
    """Each task appends, then finishes."""
    rules: list[dict[str, Any]] = []
    for number in range(count):
        action = f"echo first-{number} >> log; sleep {SLEEP_SECONDS}; echo second-{number} >> log"
        replies = [{"tool": "run_command", "script": action}, {"tool": "finish", "summary": "appended"}]
        for seed, reply in enumerate(replies, start=1):
            rules.append({"when": {"contains": [f"append-{number};"], "seed": seed}, "reply": reply})
    return rules


async def batch(count: int, chance: random.Random) -> tuple[int, int, int, int]:
    """`count` interrupted actions in one stack: (kills, lost lines, duplicated lines, unknown outcomes)."""
    async with temporary_home() as home:
        workspace = home / "workspaces" / "job"
        workspace.mkdir(parents=True)
        kills = 0
        async with Rig(home, script(count), approve=lambda _: True) as rig:
            for number in range(count):
                await rig.submit(Job(f"append-{number}", f"append-{number}; append two lines", workspace))
                await asyncio.sleep(chance.uniform(0.0, 1.2))
                for victim in chance.choice((("agent",), ("oversightd",), ("agent", "oversightd"))):
                    if rig.stack.pid_of(victim) is not None:
                        rig.stack.kill(victim, signal.SIGKILL)
                        kills += 1
                await rig.all_ended(number + 1)
            journal = await rig.events()
            unknown = sum(b'"state":"unknown"' in event.payload for event in journal)
            ids = effect_ids(journal)
            assert len(ids) == len(set(ids)), "an effect id was proposed twice"
        lost, duplicated = count_lines(workspace / "log", count)
        return kills, lost, duplicated, unknown


def count_lines(log: Path, count: int) -> tuple[int, int]:
    """(missing, surplus) lines."""
    seen = Counter(log.read_text().split()) if log.exists() else Counter()
    wanted = [f"{half}-{number}" for number in range(count) for half in ("first", "second")]
    return sum(seen[line] == 0 for line in wanted), sum(max(0, seen[line] - 1) for line in wanted)


async def prove(rounds: int, seed: int) -> Verdict:
    """`rounds` interrupted actions."""
    chance = random.Random(seed)
    faults = lost = duplicated = unknown = done = 0
    while done < rounds:
        count = min(PER_STACK, rounds - done)
        numbers = await batch(count, chance)
        done += count
        faults, lost = faults + numbers[0], lost + numbers[1]
        duplicated, unknown = duplicated + numbers[2], unknown + numbers[3]
        say(f"{done} actions, {faults} kills: {lost} lines lost, {duplicated} duplicated, {unknown} unknown")
    return Verdict("effects", seed, rounds, faults, lost, duplicated, unknown, not (lost or duplicated or unknown))


if __name__ == "__main__":
    given = arguments("effects", rounds=50)
    sys.exit(report(asyncio.run(prove(given.rounds, given.seed))))
