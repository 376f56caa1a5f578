"""Benchmark: a system state of 512 MB, of which 0.1, 1 and 10 % change; peers are borg and restic on the same file.

Of each step: how long our save takes through a client that stays connected and as a file, and what it adds to the
store. The same saves go to a second pair of stores that are asked small things meanwhile (see ``prober``), of which the
slowest answer counts. Then the memory that checkpointd needed at most, also when some sessions save files that stay in
memory between their saves, or while everything happens at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from selfware_checkpointd.hot import BUDGET_BYTES
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.state.saving import Checkpoint, Saver, get_file, put_file
from tests.bench import served
from tests.bench.backup_tools import Tool, tools
from tests.bench.common import line, median, say, timed
from tests.bench.prober import Prober
from tests.bench.workload import Session
from tests.rig import temporary_home

FILE = "state.json"
SHARES = (0.001, 0.01, 0.1)
LIMIT_BYTES = BUDGET_BYTES * 5 // 4 + 64 * 2**20
HOT_SESSIONS = 3
HOT_FILE_BYTES = BUDGET_BYTES // 5 * 2
SAVES_AT_ONCE = 20


Call = Callable[[bytes], Checkpoint | None]
OWN = ("", "_file")


class Ours:
    """Two stores: one is given states by a client that stays connected, one files."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.daemon = stack.enter_context(served.Checkpointd(base / "a"))
        self.files = stack.enter_context(served.Checkpointd(base / "f"))
        self._saver = stack.enter_context(Saver(self.daemon.bulk, "s"))
        self._epoch, self._epoch_of_file = self.daemon.open("s").epoch, self.files.open("s").epoch

    def calls(self, bench: Bench) -> dict[str, Call]:
        """How each saves."""
        return {
            "": lambda state: self._saver.save(self._epoch, pb.LEVEL_SYSTEM, bench.sequence, state),
            "_file": lambda _: bench.put(self.files, "s", self._epoch_of_file),
        }

    def restore(self, target: Path) -> None:
        """The newest, into a file."""
        with target.open("wb") as file:
            get_file(self.daemon.bulk, self.daemon.latest("s"), file.fileno())


class Bench:
    """Our two ways and the peers, over one base directory."""

    def __init__(self, base: Path, size_bytes: int, with_peers: bool) -> None:
        self.base = base
        self.file = base / FILE
        self.session = Session(size_bytes)
        self.peers: list[Tool] = tools(base, FILE) if with_peers else []
        self.sequence = 0

    def run(self, rounds: int) -> None:
        for peer in self.peers:
            peer.prepare()
        with ExitStack() as stack:
            timed_ones, probed = (Ours(self.base / name, stack) for name in ("timed", "probed"))
            prober = Prober(probed.daemon.socket), Prober(probed.files.socket)
            calls: dict[str, Call] = {
                **timed_ones.calls(self),
                **{peer.name: lambda _, peer=peer: peer.save_step(self.sequence, self.base) for peer in self.peers},
            }
            beside = dict(zip(probed.calls(self).values(), prober, strict=True))
            first = self._save(calls, beside)
            size = self.file.stat().st_size
            for suffix in OWN:
                self._show(f"first_save_seconds{suffix}", {name: took for name, (took, _) in first.items()}, suffix, 1)
                line("system", f"first_save_bytes_per_second{suffix}", "1/s", size / first[suffix][0])
            self._show_delay(prober, "first_save")
            for share in SHARES:
                taken = []
                for _ in range(rounds):
                    self.session.step(share)
                    taken.append(self._save(calls, beside))
                times = {name: median([one[name][0] for one in taken]) for name in calls}
                for suffix in OWN:
                    metric = f"incremental_save_seconds_{share * 100:g}_percent{suffix}"
                    self._show(metric, times, suffix, rounds)
                stored = median([one[""][1] for one in taken])
                line("system", f"stored_bytes_{share * 100:g}_percent", "B", stored, n=rounds)
                self._show_delay(prober, f"save_{share * 100:g}_percent")
            self._restore(timed_ones, probed, prober, rounds)
            for suffix, one in (("", timed_ones.daemon), ("_file", timed_ones.files)):
                peak = one.peak_bytes()
                line("system", f"peak_rss_bytes{suffix}", "B", peak, peer="limit", peer_value=LIMIT_BYTES)
            for each in prober:
                each.end()
        self._many_files()
        self._all_at_once()

    def _save(self, calls: dict[str, Call], beside: dict[Call, Prober]) -> dict[str, tuple[float, int]]:
        """Seconds and stored bytes of each; then once more with small calls beside it."""
        self.sequence += 1
        state = self.session.encode()
        self.file.write_bytes(state)
        os.sync()  # nobody's fdatasync pays for the state file
        done: dict[str, tuple[float, int]] = {}
        for name, call in calls.items():
            begin = time.perf_counter()
            saved = call(state)
            done[name] = (time.perf_counter() - begin, saved.stored_bytes if saved is not None else 0)
        for call, prober in beside.items():
            with prober:
                call(state)
        say(f"save {self.sequence}: " + ", ".join(f"{name or 'ours'} {took:.3f}" for name, (took, _) in done.items()))
        return done

    def put(self, daemon: served.Checkpointd, session: str, epoch: int) -> Checkpoint:
        """Save the file as it is."""
        file = os.open(self.file, os.O_RDONLY)
        try:
            return put_file(daemon.bulk, session, epoch, pb.LEVEL_SYSTEM, self.sequence, file)
        finally:
            os.close(file)

    def _restore(self, ours: Ours, probed: Ours, prober: tuple[Prober, Prober], rounds: int) -> None:
        target = self.base / "restored"
        calls = {
            "": lambda: ours.restore(target),
            **{one.name: lambda one=one: one.restore_step(self.sequence, target) for one in self.peers},
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(timed(call))
                target.unlink()
            with prober[0]:
                probed.restore(target)
            target.unlink()
        self._show("restore_seconds", {name: median(took) for name, took in times.items()}, "", rounds)
        self._show_delay(prober, "restore")

    def _many_files(self) -> None:
        """Sessions that take turns, each with a state of which two just fit."""
        self.file.write_bytes(self.file.read_bytes()[:HOT_FILE_BYTES])
        with served.Checkpointd(self.base / "b") as daemon:
            epochs = {f"hot-{number}": daemon.open(f"hot-{number}").epoch for number in range(HOT_SESSIONS)}
            for _ in range(3):
                for name, epoch in epochs.items():
                    self.sequence += 1
                    with self.file.open("ab") as file:
                        file.write(os.urandom(1_000_000))
                    self.put(daemon, name, epoch)
            peak = daemon.peak_bytes()
        line("system", f"peak_rss_bytes_{HOT_SESSIONS}_hot_files", "B", peak, peer="limit", peer_value=LIMIT_BYTES)

    def _all_at_once(self) -> None:
        """Saves of a file that stays in memory, while all is packed and restored again and again."""
        session, is_over = Session(HOT_FILE_BYTES), threading.Event()
        with served.Checkpointd(self.base / "c") as daemon:
            epoch = daemon.open("s").epoch

            def restore() -> None:
                with (self.base / "restored").open("wb") as file:
                    get_file(daemon.bulk, daemon.latest("s"), file.fileno())

            def again(call: Callable[[], object]) -> None:
                while not is_over.wait(0.05):
                    call()

            threads = [threading.Thread(target=again, args=(call,)) for call in (daemon.maintain, restore)]
            for number in range(SAVES_AT_ONCE):
                self.sequence += 1
                self.file.write_bytes(session.encode())
                self.put(daemon, "s", epoch)
                session.step(0.03)
                if not number:
                    for thread in threads:
                        thread.start()
            is_over.set()
            for thread in threads:
                thread.join()
            peak = daemon.peak_bytes()
        line("system", "peak_rss_bytes_all_at_once", "B", peak, peer="limit", peer_value=LIMIT_BYTES)

    def _show(self, metric: str, times: dict[str, float], own: str, n: int) -> None:
        families = sorted({peer.name.split()[0] for peer in self.peers}) or [""]
        for family in families:
            theirs = [times[peer.name] for peer in self.peers if peer.name.split()[0] == family]
            line("system", metric, "s", times[own], peer=family, peer_value=min(theirs, default=None), n=n)

    def _show_delay(self, prober: tuple[Prober, Prober], during: str) -> None:
        found = [one for each in prober for one in each.found]
        for each in prober:
            each.found = []
        slowest = max(seconds for seconds, _ in found)
        metric = f"slowest_small_call_seconds_during_{during}"
        line("system", metric, "s", slowest, n=sum(count for _, count in found))


async def main(size_mb: float, rounds: int, with_peers: bool) -> None:
    async with temporary_home() as base:
        begin = time.perf_counter()
        bench = Bench(base, int(size_mb * 1e6), with_peers)
        say(f"made a state of {size_mb:g} MB in {time.perf_counter() - begin:.1f} s")
        bench.run(rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench BENCH=system", description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=float, default=512, help="size of the first state")
    parser.add_argument("--rounds", type=int, default=3, help="saves of each share, and restores")
    parser.add_argument("--no-peers", action="store_true", help="only Selfware")
    given = parser.parse_args()
    asyncio.run(main(given.size_mb, max(1, given.rounds), not given.no_peers))
