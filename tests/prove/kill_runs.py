"""Real `kill -9` at random moments of a real process that works on real files.

A child takes the steps of a workload and tells through a pipe what it begins and what was acknowledged; it is killed
at a moment drawn over the time that such a run takes. Another child judges what is left (``survival``); every fourth
time the killed one has a successor on the same files first, which is killed as well. Forked from a parent that has
the product loaded and no threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import shutil
import signal
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.prove.storage_workload import Promises, Runner, plan
from tests.prove.survival import problems

STEPS = 24


class KillRuns:
    """Counts and complaints."""

    def __init__(self, base: Path, seed: int) -> None:
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._base = base
        self._chance = random.Random(seed)
        self._usual_seconds = 0.2  # of a whole run; learned from those that end before they are killed

    def kills(self, count: int) -> None:
        """So many kills that hit a running child."""
        number = 0
        while self.counts["kill -9"] < count and not self.counts["child failed"]:
            number += 1
            root = self._base / f"{number}"
            root.mkdir()
            promises = Promises(plan(self.seed * 100_000 + number, STEPS))
            self._live_and_die(root, promises)
            if number % 4 == 0:
                self._live_and_die(root, promises)
            found = json.loads(self._forked(lambda write, r=root, p=promises: _judge(r, p, write)))
            self.wrong += [f"kill {number} of seed {self.seed}, step {promises.begun}: {one}" for one in found]
            shutil.rmtree(root)

    def _live_and_die(self, root: Path, promises: Promises) -> None:
        read, write = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(read)
            _exit_after(lambda: _live(root, promises, write))
        os.close(write)
        deadline = started + self._chance.uniform(0, 1.2) * self._usual_seconds
        told = b""
        while (left := deadline - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
            piece = os.read(read, 65536)
            if not piece:
                break
            told += piece
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        while piece := os.read(read, 65536):
            told += piece
        os.close(read)
        if os.WIFSIGNALED(status):
            self.counts["kill -9"] += 1
            self.counts["killed within a step"] += told.count(b'"begin"') > told.count(b'"ack"')
        else:
            self.counts["had ended before"] += 1
            self._usual_seconds = 0.8 * self._usual_seconds + 0.2 * (time.monotonic() - started)
        for line in told.decode().splitlines():
            kind, number, value = json.loads(line)
            if kind == "wrong":
                self.counts["child failed"] += 1
                self.wrong.append(f"seed {self.seed}: {value}")
            else:
                promises.hear(kind, number, value)

    @staticmethod
    def _forked(work: Any) -> bytes:
        """What a child of our own writes."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _exit_after(lambda: work(write))
        os.close(write)
        told = b""
        while piece := os.read(read, 65536):
            told += piece
        os.close(read)
        os.waitpid(child, 0)
        return told


def _live(root: Path, promises: Promises, write: int) -> None:
    def mark(kind: str, step: int, value: Any) -> None:
        os.write(write, json.dumps([kind, step, value]).encode() + b"\n")

    try:
        asyncio.run(Runner(root, promises.steps, mark, None).run(promises.next_step))
    except Exception:  # noqa: BLE001 -- whatever it is, it is what this proof looks for
        mark("wrong", 0, " | ".join(traceback.format_exc().splitlines()[-6:]))


def _judge(root: Path, promises: Promises, write: int) -> None:
    os.write(write, json.dumps(asyncio.run(problems(root, promises))).encode())


def _exit_after(work: Any) -> None:
    try:
        work()
    finally:
        os._exit(0)  # never into what the parent was doing
