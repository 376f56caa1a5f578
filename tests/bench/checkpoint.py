"""Benchmark: saving the growing state of an agent session; peers are borg and restic on the same file, step by step.

Two stores of ours take every step: one through a client that stays connected (as the agent is), one through a whole
client process per save (as the peers are). The physical floor is what no design can avoid: comparing the state with
the one before, cutting, hashing and compressing what is new, one fdatasync.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from blake3 import blake3

from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.state.chunking import Chunker
from selfware_common.state.saving import Saver, get_file
from tests.bench import save_client, served
from tests.bench.backup_tools import Tool, tools
from tests.bench.common import line, median, say, timed
from tests.bench.workload import Session
from tests.rig import temporary_home

FILE = "state.json"
OURS, PROCESS, FLOOR, ENCRYPTED = "selfware", "selfware process", "floor", "selfware encrypted"
REPEATED_RESTORES = 9
STARTS = 3


@dataclass
class Run:
    """Times of one participant: the first save, later saves, restores, saves of nothing; what it keeps at the end."""

    saves: list[float] = field(default_factory=list)
    restores: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    stored_bytes: int = 0

    @property
    def incremental(self) -> float:
        return median(self.saves[1:])


class Bench:
    """Everything that takes part, over one base directory."""

    def __init__(self, base: Path, size_bytes: int, with_peers: bool, with_encrypted: bool) -> None:
        self.base = base
        self.file = base / FILE
        self.session = Session(size_bytes)
        self.peers: list[Tool] = tools(base, FILE) if with_peers else []
        self.encrypted = with_encrypted
        self.ours = {OURS: base / "a", **({ENCRYPTED: base / "c"} if with_encrypted else {})}
        names = (*self.ours, PROCESS, FLOOR, *(one.name for one in self.peers))
        self.runs: dict[str, Run] = {name: Run() for name in names}
        self.chunker = Chunker()
        self.compressor = zstandard.ZstdCompressor(level=3)

    def run(self, steps: int) -> None:
        for peer in self.peers:
            peer.prepare()
        with ExitStack() as stack:
            enter = stack.enter_context
            connected = {
                name: enter(served.Checkpointd(home, is_encrypted=name == ENCRYPTED))
                for name, home in self.ours.items()
            }
            per_process = enter(served.Checkpointd(self.base / "b"))
            per_process.open(save_client.SESSION)
            epochs = {name: daemon.open("s").epoch for name, daemon in connected.items()}
            with ExitStack() as until_saved:
                savers = {
                    name: until_saved.enter_context(Saver(daemon.bulk, "s")) for name, daemon in connected.items()
                }
                for step in range(steps + 1):
                    self._step(step, savers, epochs, per_process)
            self.cpu_seconds = {name: daemon.cpu_seconds() for name, daemon in connected.items()}
            self._restore(steps, connected, per_process)
            self.restore_cpu_seconds = {
                name: (daemon.cpu_seconds() - self.cpu_seconds[name]) / len(self.runs[name].restores)
                for name, daemon in connected.items()
            }
            self.at_once_bytes = connected[OURS].stored_bytes()
            self.peaks = {OURS: connected[OURS].peak_bytes(), PROCESS: per_process.peak_bytes()}
            for name, daemon in {**connected, PROCESS: per_process}.items():
                say(daemon.maintain())
                self.runs[name].stored_bytes = daemon.stored_bytes()
            self._measure_start_up(per_process)
        for peer in self.peers:
            self.runs[peer.name].stored_bytes = peer.stored_bytes()

    def _step(
        self, step: int, savers: dict[str, Saver], epochs: dict[str, int], per_process: served.Checkpointd
    ) -> None:
        changed = self.session.step() if step else "first state"
        state = self.session.encode()
        copy = bytes(bytearray(state))
        self.file.write_bytes(state)
        os.sync()  # nobody's fdatasync pays for the state file
        calls = {
            FLOOR: lambda: self._floor(state, copy),
            **{
                name: lambda name=name: savers[name].save(epochs[name], pb.LEVEL_SESSION, step, state)
                for name in savers
            },
            PROCESS: lambda: self._client("save", per_process.bulk, self.file, 1, step),
            **{one.name: lambda one=one: one.save_step(step, self.base) for one in self.peers},
        }
        names = list(calls)
        order = names[step % len(names) :] + names[: step % len(names)]
        if self.encrypted and step // len(names) % 2:  # so that neither of the two always finds what the other left
            order.reverse()
        for name in order:
            self.runs[name].saves.append(timed(calls[name]))
        spent = ", ".join(f"{name} {self.runs[name].saves[-1]:.3f}" for name in names)
        say(f"step {step}: {len(state) / 2**20:.1f} MiB, {changed}; seconds: {spent}")

    def _restore(self, step: int, connected: dict[str, served.Checkpointd], per_process: served.Checkpointd) -> None:
        wanted = self.file.read_bytes()
        newest = {name: daemon.latest("s") for name, daemon in connected.items()}
        newest_of_process = per_process.latest(save_client.SESSION)
        target = self.base / "restored"
        calls = {
            **{name: lambda name=name: self._get(connected[name], newest[name], target) for name in connected},
            PROCESS: lambda: self._client("restore", per_process.bulk, target, newest_of_process),
            **{one.name: lambda one=one: one.restore_step(step, target) for one in self.peers},
        }
        for repeated in range(REPEATED_RESTORES):
            for name, call in list(calls.items())[:: -1 if self.encrypted and repeated % 2 else 1]:
                self.runs[name].restores.append(timed(call))
                assert target.read_bytes() == wanted, f"{name} restored something else"
                target.unlink()

    def _get(self, daemon: served.Checkpointd, checkpoint_id: str, target: Path) -> None:
        with target.open("wb") as file:
            get_file(daemon.bulk, checkpoint_id, file.fileno())

    def _measure_start_up(self, per_process: served.Checkpointd) -> None:
        """What each whole process takes for a state of one byte."""
        tiny = self.base / "tiny"
        tiny.mkdir()
        (tiny / FILE).write_bytes(b"x")
        for peer in tools(tiny, FILE) if self.peers else []:
            peer.prepare()
            for step in range(STARTS):
                self.runs[peer.name].starts.append(timed(lambda peer=peer, step=step: peer.save_step(step, tiny)))
        for step in range(STARTS):
            call = lambda step=step: self._client("save", per_process.bulk, tiny / FILE, 1, 1000 + step)  # noqa: E731
            self.runs[PROCESS].starts.append(timed(call))

    def _client(self, verb: str, *words: object) -> None:
        root = str(Path(__file__).resolve().parents[2])
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable  # as in the package
        argv = [python, "-IS", save_client.__file__, root, verb, *map(str, words)]
        subprocess.run(argv, check=True)

    def _floor(self, state: bytes, copy: bytes) -> None:
        """Compare all of it (with a copy, as nothing says where it differs), cut, hash, compress and write the new."""
        assert state == copy
        fresh = b",\n".join(self.session.fresh)
        for chunk in self.chunker.cut(memoryview(fresh)):
            blake3(chunk).digest()
        file = os.open(self.base / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, self.compressor.compress(fresh))
        os.fdatasync(file)
        os.close(file)

    def report(self) -> None:
        """Per metric and peer; of borg's two settings the better one counts, metric by metric."""
        steps = len(self.runs[OURS].saves) - 1
        ours, process, floor = self.runs[OURS], self.runs[PROCESS], self.runs[FLOOR].incremental
        families = sorted({peer.name.split()[0] for peer in self.peers}) or [""]
        for family in families:
            others = [self.runs[peer.name] for peer in self.peers if peer.name.split()[0] == family]

            def show(metric: str, unit: str, of: Callable[[Run], float], n: int) -> None:
                peer_value = min(map(of, others)) if others else None  # noqa: B023 (called in this round only)
                for suffix, own in (("", ours), ("_process", process)):
                    name = "process_save_seconds" if suffix and metric.startswith("inc") else metric + suffix
                    line("checkpoint", name, unit, of(own), peer=family, peer_value=peer_value, n=n)  # noqa: B023

            show("incremental_save_seconds", "s", lambda run: run.incremental, steps)
            show("first_save_seconds", "s", lambda run: run.saves[0], 1)
            show("restore_seconds", "s", lambda run: median(run.restores), len(ours.restores))
            show("stored_bytes", "B", lambda run: run.stored_bytes, steps + 1)
            if others:
                best = min(others, key=lambda run: run.incremental)
                line(
                    "checkpoint", "process_save_seconds_less_start_up", "s",
                    process.incremental - median(process.starts), peer=family,
                    peer_value=best.incremental - median(best.starts), n=steps,
                )  # fmt: skip
        if sealed := self.runs.get(ENCRYPTED):
            for metric, unit, own, plain in (
                ("incremental_save_seconds", "s", sealed.incremental, ours.incremental),
                ("first_save_seconds", "s", sealed.saves[0], ours.saves[0]),
                ("restore_seconds", "s", median(sealed.restores), median(ours.restores)),
                ("stored_bytes", "B", sealed.stored_bytes, ours.stored_bytes),
                ("cpu_seconds", "s", self.cpu_seconds[ENCRYPTED], self.cpu_seconds[OURS]),
                ("restore_cpu_seconds", "s", self.restore_cpu_seconds[ENCRYPTED], self.restore_cpu_seconds[OURS]),
            ):
                line("checkpoint", f"{metric}_encrypted", unit, own, peer="not encrypted", peer_value=plain, n=steps)
        line("checkpoint", "stored_bytes_before_upkeep", "B", self.at_once_bytes, n=steps + 1)
        line("checkpoint", "peak_rss_bytes", "B", self.peaks[OURS], n=1)
        line("checkpoint", "peak_rss_bytes_process", "B", self.peaks[PROCESS], n=1)
        line("checkpoint", "floor_seconds", "s", floor, n=steps)
        line("checkpoint", "floor_share", "ratio", floor / ours.incremental, n=steps)


async def main(size_mb: float, steps: int, with_peers: bool, with_encrypted: bool) -> None:
    async with temporary_home() as base:
        begin = time.perf_counter()
        bench = Bench(base, int(size_mb * 1e6), with_peers, with_encrypted)
        say(f"made a session of {size_mb:g} MB in {time.perf_counter() - begin:.1f} s")
        bench.run(steps)
        bench.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench BENCH=checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=float, default=64, help="size of the first state")
    parser.add_argument("--steps", type=int, default=50, help="saves after the first one")
    parser.add_argument("--no-peers", action="store_true", help="only Selfware and the floor")
    parser.add_argument("--encrypted", action="store_true", help="a third store of ours, which is encrypted")
    given = parser.parse_args()
    asyncio.run(main(given.size_mb, max(1, given.steps), not given.no_peers, given.encrypted))
