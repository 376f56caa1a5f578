"""Benchmark: how soon work goes on after `kill -9`, what a long history costs, whether an effect runs twice.

Peers are LangGraph's SQLite checkpointer and DBOS on SQLite, on the same disk. What runs twice: a step that appends a
line to a file is killed with SIGKILL while it runs, then resumed; every line beyond the first is a duplicated effect.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import history, kill_times
from tests.bench.common import line, say, timed
from tests.bench.served import tree_bytes
from tests.rig import Job, Rig, temporary_home

PEERS = ("langgraph", "dbos")
DEADLINE_SECONDS = 60.0
EFFECT = {"tool": "run_command", "script": "echo effect >> effects; sleep 1"}


def installed() -> list[str]:
    """Peers that can be imported here."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def peer_argv(peer: str, verb: str, directory: Path, argument: str) -> list[str]:
    return [sys.executable, "-m", f"tests.bench.peers.{peer}_steps", verb, str(directory), argument]


async def storage(base: Path, steps: int, peers: list[str]) -> None:
    """Full history of `steps` steps here and there, and of 10,000 steps here."""
    ours = await history.stored_bytes(base / "history", [steps, 10_000 if steps == 1500 else steps * 7])
    for peer in peers or [""]:
        theirs = None
        if peer:
            directory = base / peer
            directory.mkdir()
            argv = peer_argv(peer, "steps", directory, str(steps))
            seconds = timed(lambda argv=argv: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))
            theirs = tree_bytes(directory)
            say(f"{peer}: {steps} steps in {seconds:.1f} s, {theirs / 1e6:.1f} MB")
        line("recovery", f"stored_bytes_{steps}_steps", "B", ours[steps], peer=peer, peer_value=theirs)
    most = max(ours)
    line("recovery", f"stored_bytes_{most}_steps", "B", ours[most])


async def our_duplicates(count: int) -> int:
    """Kill the agent and oversightd in turn while the effect runs; lines beyond the first of each task."""
    steps = [EFFECT, {"tool": "finish", "summary": "appended"}]
    script = [{"when": {"seed": seed}, "reply": reply} for seed, reply in enumerate(steps, 1)]
    async with temporary_home() as home, Rig(home, script, approve=lambda _: True) as rig:
        duplicated = 0
        for number in range(count):
            workspace = home / f"workspaces/job-{number}"
            workspace.mkdir(parents=True)
            await rig.submit(Job(f"effect-{number}", "append one line", workspace))
            await asyncio.to_thread(wait_for, workspace / "effects")
            rig.stack.kill(("agent", "oversightd")[number % 2], signal.SIGKILL)
            await rig.all_ended(number + 1)
            duplicated += len((workspace / "effects").read_text().splitlines()) - 1
    return duplicated


def peer_duplicates(base: Path, peer: str, count: int) -> int:
    """The same with the peer's process, which is the one that runs its steps."""
    duplicated = 0
    for number in range(count):
        directory = base / f"{peer}-effect-{number}"
        directory.mkdir()
        process = subprocess.Popen(peer_argv(peer, "effect", directory, "new"), stdout=subprocess.DEVNULL)
        wait_for(directory / "effects")
        process.kill()
        process.wait()
        subprocess.run(peer_argv(peer, "effect", directory, "again"), check=True, stdout=subprocess.DEVNULL)
        duplicated += len((directory / "effects").read_text().splitlines()) - 1
    return duplicated


def wait_for(path: Path) -> None:
    """Until a file has content."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not path.exists() or not path.stat().st_size:
        if time.monotonic() > end:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.01)


async def effects(base: Path, count: int, peers: list[str]) -> None:
    ours = await our_duplicates(count)
    say(f"selfware: {ours} duplicated effects in {count} kills")
    for peer in peers or [""]:
        theirs = peer_duplicates(base, peer, count) if peer else None
        line("recovery", "duplicated_effects", "1", ours, peer=peer, peer_value=theirs, n=count)


async def main(given: argparse.Namespace) -> None:
    peers = [] if given.no_peers else installed()
    parts = given.only or ["kills", "recover", "storage", "effects"]
    if "kills" in parts:
        await kill_times.measure(given.kills)
    async with temporary_home() as base:
        if "recover" in parts:
            rounds = 5
            found = await history.recover_seconds(base / "recover", given.events, rounds)
            metric = f"recover_{given.events}_events_seconds"
            line("recovery", metric, "s", found.rpc, n=rounds)
            line("recovery", f"{metric}_inprocess", "s", found.inprocess, n=rounds)
            line("recovery", f"{metric}_agent", "s", found.agent, n=rounds)
        if "storage" in parts:
            await storage(base, given.steps, peers)
        if "effects" in parts:
            await effects(base, given.effects, peers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench BENCH=recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=15, help="kills of each process")
    parser.add_argument("--events", type=int, default=10_000, help="length of the journal that is recovered")
    parser.add_argument("--steps", type=int, default=1500, help="2 KB steps whose stored bytes are compared")
    parser.add_argument("--effects", type=int, default=5, help="killed effects")
    parser.add_argument("--no-peers", action="store_true", help="only Selfware")
    parser.add_argument("--only", action="append", choices=["kills", "recover", "storage", "effects"])
    asyncio.run(main(parser.parse_args()))
