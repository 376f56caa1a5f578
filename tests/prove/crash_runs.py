"""The crash matrix of one seed: a workload over the fault-injecting layer, and a judgement of what is left.

A run is recorded once. What a crash leaves at any point of it follows from the record, so it need not be run again
to be crashed again: before and after each operation, in the middle of each write, and, for a power cut, several of
the states that ``page_cache`` finds legal there. Each state is put on a memory file system and handed to the plain
product (``survival``). From many points a second life begins, on what ``kill -9`` left with all that
was not synced still hanging in the air, and the power is cut anywhere in that one too. Errors are different: they
change what the product does next, so for each point there is a run of its own.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from selfware_checkpointd.errors import CheckpointCorruptError, JournalStoppedError, StorageError
from selfware_common.errors import DiskFullError, SelfwareError
from tests.prove.faulty_files import FaultyFiles, Mark, Op
from tests.prove.page_cache import Image, PageCache, put, taken
from tests.prove.storage_workload import Promises, Runner, Step, plan
from tests.prove.survival import problems

CUTS_PER_POINT = 2
SECOND_LIVES_PER_STEP = 2
STEPS_OF_SECOND_LIFE = 3
CUTS_PER_POINT_IN_SECOND_LIFE = 1
CUTS_AFTER_ERROR = 2
UNSURE = ("create", "rename", "mkdir", "unlink", "write")  # what a successor may take for durable and must not
CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


class CrashRuns:
    """Counts, complaints and a place for files."""

    def __init__(self, layer: FaultyFiles, base: Path, seed: int, length: int) -> None:
        """The layer is installed; base is an empty directory."""
        self.seed = seed
        self.steps = plan(seed, length)
        self._layer = layer
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._base = base
        self._number = 0
        self._loop = asyncio.new_event_loop()

    def crashes(self) -> None:
        """Every point of one run, and second lives from some of them."""
        root = self._fresh()
        root.mkdir()
        trace = self._run(root, self.steps, 0)
        self._same_as_recorded(root, trace, PageCache())
        chance = random.Random(self.seed)
        unsure = [number for number, one in enumerate(trace) if isinstance(one, Op) and one.kind in UNSURE]
        chosen = set(chance.sample(unsure, min(SECOND_LIVES_PER_STEP * len(self.steps), len(unsure))))
        promises, cache = Promises(self.steps), PageCache()
        for number, one in enumerate(trace):
            if isinstance(one, Mark):
                promises.hear(*one)
            else:
                self.counts["points"] += 1
                self._around(one, cache, promises, chance, f"point {number} ({one.kind} {one.path})")
            if number in chosen:
                self._second_life(copy.deepcopy(cache), copy.deepcopy(promises), chance, number)

    def errors(self) -> None:
        """Every point of one run fails once, and from every point on all fail until the writer has heard of it."""
        for point, kind in self._points():
            if kind != "read":
                code = CODES[(point + self.seed) % len(CODES)]
                self._failing(point, code, False, kind)
                self._failing(point, CODES[(point + self.seed + 2) % len(CODES)], True, kind)

    def reads(self) -> None:
        """Every read of one run fails once."""
        for point, kind in self._points():
            if kind == "read":
                self._failing(point, errno.EIO, False, kind)

    def _points(self) -> list[tuple[int, str]]:
        root = self._fresh()
        root.mkdir()
        self._run(root, self.steps, 0)
        shutil.rmtree(root)
        return list(enumerate(self._layer.kinds))

    # ---- crashes

    def _around(self, op: Op, cache: PageCache, promises: Promises, chance: random.Random, where: str) -> None:
        """States in the middle of an operation and after it; before it is after the one before."""
        if op.kind == "write" and len(op.data) > 1:
            middle = chance.randint(1, len(op.data) - 1)
            cache.apply(op._replace(data=op.data[:middle]))
            self._judge("torn write", cache.now(), promises, where)
            op = op._replace(data=op.data[middle:], offset=op.offset + middle)
        cache.apply(op)
        if op.kind in ("open", "sync"):  # nothing a process could see has changed
            self.counts["crash (same as before)"] += 1
        else:
            self._judge("crash", cache.now(), promises, where)
        for _ in range(CUTS_PER_POINT):
            self._judge("power cut", cache.after_power_cut(chance), promises, where)

    def _second_life(self, cache: PageCache, promises: Promises, chance: random.Random, number: int) -> None:
        root = self._fresh()
        put(cache.now(), root)
        end = promises.next_step + STEPS_OF_SECOND_LIFE
        try:
            trace = self._run(root, self.steps[:end], promises.next_step)
        except Exception:  # noqa: BLE001 -- whatever it is, it is what this proof looks for
            text = " | ".join(traceback.format_exc().splitlines()[-4:])
            self.wrong.append(f"seed {self.seed}, killed at {number}: no second life: {text}")
            return
        self._same_as_recorded(root, trace, copy.deepcopy(cache))
        for at, one in enumerate(trace):
            if isinstance(one, Mark):
                promises.hear(*one)
            else:
                cache.apply(one)
                self.counts["points of second lives"] += 1
                for _ in range(CUTS_PER_POINT_IN_SECOND_LIFE):
                    where = f"killed at {number}, then point {at} ({one.kind} {one.path})"
                    self._judge("power cut in a second life", cache.after_power_cut(chance), promises, where)

    def _judge(self, kind: str, image: Image, promises: Promises, where: str) -> None:
        self.counts[kind] += 1
        root = self._fresh()
        put(image, root)
        found = self._loop.run_until_complete(problems(root, promises))
        self.wrong += [f"seed {self.seed}, {kind}, {where}, step {promises.begun}: {one}" for one in found]
        shutil.rmtree(root)

    # ---- errors

    def _failing(self, point: int, code: int, lasting: bool, kind: str) -> None:
        name = f"{errno.errorcode[code]} {'from' if lasting else 'at'} point {point} ({kind})"
        heard: list[SelfwareError] = []
        state = {"healed": False}

        def fault(number: int, kind_now: str) -> int | None:
            if kind_now == "read" and code != errno.EIO:
                return None  # a full or read-only disk can be read
            fails = number >= point and not state["healed"] if lasting else number == point
            return code if fails else None

        def heal(error: SelfwareError) -> None:
            heard.append(error)
            state["healed"] = len(heard) >= 2  # the writer tried again while the fault lasted

        root = self._fresh()
        root.mkdir()
        self._layer.short_write = point % 2 == 0
        try:
            trace = self._run(root, self.steps, 0, fault, heal)
        except SelfwareError as error:
            self.wrong.append(f"seed {self.seed}, {name}: does not go on afterwards: {error}")
            return
        except Exception:  # noqa: BLE001 -- whatever it is, it is what this proof looks for
            text = " | ".join(traceback.format_exc().splitlines()[-7:])
            self.wrong.append(f"seed {self.seed}, {name}: not an error of ours: {text}")
            return
        self.counts["told in a sentence" if heard else "absorbed"] += 1
        self.counts["points"] += 1
        self.wrong += [f"seed {self.seed}, {name}: {text}" for one in heard[:1] for text in unclear(one, code, kind)]
        promises, cache, chance = Promises(self.steps), PageCache(), random.Random(point)
        cuts = set(chance.sample(range(len(trace) // 2, len(trace)), CUTS_AFTER_ERROR - 1)) | {len(trace) - 1}
        for number, one in enumerate(trace):
            if isinstance(one, Mark):
                promises.hear(*one)
            else:
                cache.apply(one)
            if number in cuts:
                self._judge("power cut after an error", cache.after_power_cut(chance), promises, name)
        self._same_as_recorded(root, trace, PageCache())

    # ---- helpers

    def _run(
        self,
        root: Path,
        steps: list[Step],
        start: int,
        fault: Callable[[int, str], int | None] | None = None,
        heal: Callable[[SelfwareError], None] | None = None,
    ) -> list[Op | Mark]:
        """The record of a run; nothing is watched afterwards."""
        self._layer.watch(root)
        self._layer.fault = fault
        try:
            self._loop.run_until_complete(Runner(root, steps, self._layer.mark, heal).run(start))
            return self._layer.trace
        finally:
            self._layer.root, self._layer.fault = "", None

    def _same_as_recorded(self, root: Path, trace: list[Op | Mark], cache: PageCache) -> None:
        """The proof that no change slipped past the layer."""
        for one in trace:
            if isinstance(one, Op):
                cache.apply(one)
        recorded, real = cache.now(), taken(root)
        differing = [path for path in {*recorded, *real} if recorded.get(path, b"-") != real.get(path, b"-")]
        if differing or self._layer.slipped:
            self.wrong.append(f"seed {self.seed}: changed past the layer: {differing} {self._layer.slipped}")
            self._layer.slipped.clear()
        shutil.rmtree(root)

    def _fresh(self) -> Path:
        self._number += 1
        return self._base / f"{self._number}"


def unclear(error: SelfwareError, code: int, kind: str) -> list[str]:
    """What is wrong with the first sentence that the writer hears."""
    full = code in (errno.ENOSPC, errno.EDQUOT)
    right = (
        DiskFullError if full else StorageError,
        JournalStoppedError,
        *([CheckpointCorruptError] * (kind == "read")),
    )
    if not isinstance(error, right):
        return [f"{type(error).__name__} is not the error for that: {error}"]
    if "{" in str(error) or not error.sentence.endswith(".") or not error.advice:
        return [f"not a sentence with advice: {error}"]
    return []
