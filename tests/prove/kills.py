"""Proof: `kill -9` of any process at any moment costs nothing.

One job is done twice per round: undisturbed (once), and with random SIGKILLs over all daemons and the engine. The
disturbed run must end with the same events, the same folded state and the same workspace, byte for byte, and with
every effect id proposed and finished exactly once. The job has sampled tasks (write, check, commit), tasks that fail,
and free-loop tasks whose actions append to a file, so that a repeated action would show.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfware_common import events
from selfware_common.rpc import checkpoint_pb2
from tests.prove.common import Verdict, arguments, report, say
from tests.rig import Job, Rig, effect_ids, folded, temporary_home, tree_hash

VICTIMS = ("agent", "oversightd", "checkpointd", "inferenced", "resourced", "engine")
KILLS_PER_ROUND = 10
SAMPLED_TASKS = 6
LOOP_TASKS = 2


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, without clock times and commit ids."""

    events: tuple[tuple[str, str], ...]
    state_digest: str
    tree: str
    subjects: tuple[str, ...]
    effects: tuple[str, ...]
    kills: int
    unknown: int


def script() -> list[dict[str, Any]]:
    """Answers chosen by what a request says, never by how often it was asked."""
    rules: list[dict[str, Any]] = []
    for number in range(SAMPLED_TASKS):
        name = f"part{number}.txt"
        right = {"tool": "write_file", "path": name, "content": f"value {number}\n"}
        wrong = {"tool": "write_file", "path": name, "content": "wrong\n"}
        needed = 3 if number % 3 == 2 else 1  # every third task needs two failures first
        for seed in range(1, 9):
            reply = right if seed >= needed and number != SAMPLED_TASKS - 1 else wrong
            rules.append({"when": {"contains": [f"sampled-{number};"], "seed": seed}, "reply": reply})
    for number in range(LOOP_TASKS):
        log = f"loop{number}.log"
        steps = [
            {"tool": "run_command", "script": f"echo begin >> {log}; sleep 0.3; echo end >> {log}"},
            {"tool": "run_command", "script": f"wc -l < {log} >> {log}.count"},
            {"tool": "write_file", "path": f"loop{number}.done", "content": "yes\n"},
            {"tool": "finish", "summary": "appended"},
        ]
        for seed, reply in enumerate(steps, start=1):
            rules.append({"when": {"contains": [f"loop-{number};"], "seed": seed}, "reply": reply})
    return [{**rule, "tokens_delay_seconds": 0.01} for rule in rules]


def make_workspace(path: Path) -> None:
    """A git repository whose checks have output that never varies."""
    path.mkdir(parents=True)
    (path / "check.py").write_text(
        "import pathlib, sys\n"
        "name, wanted = sys.argv[1:]\n"
        "text = pathlib.Path(name).read_text() if pathlib.Path(name).exists() else 'nothing'\n"
        "sys.exit(0 if text.strip() == wanted else f'{name} holds {text.strip()!r}, not {wanted!r}')\n"
    )
    for number in range(SAMPLED_TASKS):
        (path / f"part{number}.txt").write_text("original\n")
    for argv in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "begin"]):
        identity = ["-c", "user.name=Proof", "-c", "user.email=proof@localhost"]
        subprocess.run(["git", *identity, *argv], cwd=path, check=True)


def jobs(workspace: Path) -> list[Job]:
    """The same goals in every run."""
    sampled = [
        Job(
            f"sampled-{n}",
            f"sampled-{n}; make part{n}.txt hold value {n}",
            workspace,
            ("python3", "check.py", f"part{n}.txt", f"value {n}"),
            (f"part{n}.txt",),
            commit=True,
            max_attempts=4,
        )
        for n in range(SAMPLED_TASKS)
    ]
    loops = [
        Job(f"loop-{n}", f"loop-{n}; append to the log", workspace, ("python3", "check.py", f"loop{n}.done", "yes"))
        for n in range(LOOP_TASKS)
    ]
    return [*sampled[:3], *loops, *sampled[3:]]


async def run(base: Path, kills: int, seed: int) -> Outcome:
    """One run of the whole job in a fresh home (always the same path: it is part of the events)."""
    home = base / "home"
    home.mkdir()
    try:
        return await _run(home, kills, seed)
    finally:
        shutil.rmtree(home)


async def _run(home: Path, kills: int, seed: int) -> Outcome:
    workspace = home / "workspaces" / "job"
    make_workspace(workspace)
    async with Rig(home, script(), approve=lambda _: True) as rig:
        for job in jobs(workspace):
            await rig.submit(job)
        done = await _kill_at_random(rig, kills, random.Random(seed)) if kills else 0
        tasks = await rig.all_ended(len(jobs(workspace)), deadline_seconds=240)
        journal = await rig.events()
        unknown = sum(b'"state":"unknown"' in event.payload for event in journal)
        assert len(tasks) == len(jobs(workspace))
    subjects = subprocess.run(
        ["git", "log", "--format=%s"], cwd=workspace, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return Outcome(
        _by_task(journal),
        folded(journal).digest(),
        tree_hash(workspace),
        tuple(sorted(subjects)),
        tuple(effect_ids(journal)),
        done,
        unknown,
    )


def _by_task(journal: list[checkpoint_pb2.Event]) -> tuple[tuple[str, str], ...]:
    """Events in their order within each task: while one task waits for a person, others go on, as it happens."""
    assert [event.sequence for event in journal] == list(range(1, len(journal) + 1)), "the journal has a gap"
    ordered = sorted(journal, key=lambda event: (events.decode(event.payload)["task_id"], event.sequence))
    return tuple((event.kind, _stable(event.payload)) for event in ordered)


def _stable(payload: bytes) -> str:
    """An event without the commit id that `git rev-parse` printed: it depends on the clock."""
    plain = events.decode(payload)
    if len(plain.get("output", "").strip()) == 40:
        plain["output"] = "<commit>"
    return json.dumps(plain, sort_keys=True)


async def _kill_at_random(rig: Rig, kills: int, chance: random.Random) -> int:
    done = 0
    while done < kills:
        await asyncio.sleep(chance.uniform(0.05, 0.9))
        victim = chance.choice(VICTIMS)
        if rig.stack.pid_of(victim) is None:
            continue
        rig.stack.kill(victim, signal.SIGKILL)
        done += 1
    return done


def compare(calm: Outcome, stormy: Outcome) -> list[str]:
    """Every difference, in words; empty when the storm left no trace."""
    found = []
    if stormy.events != calm.events:
        at = next(
            (i for i, (a, b) in enumerate(zip(calm.events, stormy.events, strict=False)) if a != b),
            min(len(calm.events), len(stormy.events)),
        )
        found.append(f"events differ from number {at + 1}: {calm.events[at : at + 1]} / {stormy.events[at : at + 1]}")
    if stormy.state_digest != calm.state_digest:
        found.append("the folded states differ")
    if stormy.tree != calm.tree:
        found.append("the workspaces differ")
    if stormy.subjects != calm.subjects:
        found.append(f"the commits differ: {calm.subjects} / {stormy.subjects}")
    return found


async def prove(rounds: int, seed: int) -> Verdict:
    """`rounds` counts kills; they are spread over as many runs of the job as needed."""
    async with temporary_home() as base:
        return await _prove(base, rounds, seed)


async def _prove(base: Path, rounds: int, seed: int) -> Verdict:
    calm = await run(base, 0, seed)
    say(f"undisturbed: {len(calm.events)} events, {len(calm.effects)} effects, tree {calm.tree[:12]}")
    faults = lost = duplicated = unknown = 0
    ok = True
    while faults < rounds:
        stormy = await run(base, min(KILLS_PER_ROUND, rounds - faults), seed + faults)
        faults += stormy.kills
        differences = compare(calm, stormy)
        lost += max(0, len(calm.events) - len(stormy.events))
        duplicated += len(stormy.effects) - len(set(stormy.effects)) + max(0, len(stormy.events) - len(calm.events))
        unknown += stormy.unknown
        ok = ok and not differences
        say(f"{faults} kills: {'no difference' if not differences else '; '.join(differences)}")
    return Verdict("kills", seed, rounds, faults, lost, duplicated, unknown, ok and not (lost or duplicated or unknown))


if __name__ == "__main__":
    given = arguments("kills", rounds=60)
    sys.exit(report(asyncio.run(prove(given.rounds, given.seed))))
