"""Benchmark: what the five daemons cost while nothing happens: resident memory together, share of one CPU."""

from __future__ import annotations

import asyncio

import psutil

from tests.bench.common import line, say
from tests.rig import Rig, temporary_home

SETTLE_SECONDS = 5.0
WATCH_SECONDS = 30.0
DAEMONS = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")


async def main() -> None:
    async with temporary_home() as home, Rig(home, [{"reply": "{}"}]) as rig:
        await asyncio.sleep(SETTLE_SECONDS)
        processes = {name: psutil.Process(rig.stack.pid_of(name)) for name in DAEMONS}
        before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        await asyncio.sleep(WATCH_SECONDS)
        used = {name: sum(process.cpu_times()[:2]) - before[name] for name, process in processes.items()}
        resident = {name: process.memory_full_info() for name, process in processes.items()}
    for name in DAEMONS:
        one = resident[name]
        say(f"{name}: rss {one.rss / 2**20:.1f} MiB, pss {one.pss / 2**20:.1f} MiB, cpu {used[name]:.3f} s")
        line("idle", f"rss_bytes_{name}", "B", resident[name].rss)
    line("idle", "rss_bytes_total", "B", sum(one.rss for one in resident.values()), n=len(DAEMONS))
    line("idle", "pss_bytes_total", "B", sum(one.pss for one in resident.values()), n=len(DAEMONS))
    line("idle", "cpu_fraction", "1", sum(used.values()) / WATCH_SECONDS, n=len(DAEMONS))


if __name__ == "__main__":
    asyncio.run(main())
