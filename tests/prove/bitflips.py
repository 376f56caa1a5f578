"""Proof: whichever bit of checkpointd's files turns over, what is read is right or is refused with a sentence.

A store with one of everything (``flip_store``); one flip at a time (a bit, or all bits of a byte) in every byte that
has structure and in a sample of the others. After each all checkpoints are loaded, all journals read and all sessions
recovered by the plain product. Allowed are: the original bytes; an error of ours that names what is lost; and, for
the batch written last, whose damage nobody can tell from an unfinished write, a note that says what was cut. Now and
then the damaged store also has to go on: open, append, save.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import shutil
import sys
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from selfware_checkpointd.errors import CheckpointCorruptError, JournalCorruptError, SessionCorruptError
from selfware_checkpointd.memory import Memory
from selfware_common.errors import SelfwareError
from tests.prove.common import Verdict, arguments, report, say
from tests.prove.crashmatrix import fast_directory
from tests.prove.flip_store import NOW, SESSIONS, Original, Span, goes_on, make, spans
from tests.prove.page_cache import Image, put, taken

AT_ONCE = 2
GOES_ON_EVERY = 10
UNDER_RUNNING_EVERY = 6
SAMPLED = ("chunks", "sealed segment", "sealed segment beside the plain one", "a record", "the last batch")
WHY_HARMLESS = {
    "writer, a copy": "the other copy is taken",
    "group head": "the index has it once more",
    "deleted checkpoint, header": "the groups are found by their marks",
    "deleted checkpoint, index": "the groups are found by their marks",
    "deleted checkpoint, trailer": "the groups are found by their marks",
    "deleted checkpoint, chunks": "no checkpoint needs them, or they are stored twice",
    "deleted checkpoint, frame start": "no checkpoint needs them, or they are stored twice",
    "checkpoint, chunks": "they are stored twice",
    "segment, header": "the file's name and the records say the same",
    "sealed segment beside the plain one": "the plain one is taken",
    "sealed segment beside the plain one, frame start": "the plain one is taken",
    "frame start": "a bit that zstd does not use",
}
OUTCOMES = ("cut as unfinished, with a note", "detected at read", "detected at scrub only", "harmless")
NAMED = (CheckpointCorruptError, JournalCorruptError, SessionCorruptError)


@dataclass(frozen=True)
class Flip:
    """One damage."""

    span: Span
    offset: int
    mask: int


@dataclass
class Heard:
    """What the product said about one damage, and what was wrong with that."""

    at_open: list[str] = field(default_factory=list)
    at_read: list[str] = field(default_factory=list)
    at_scrub: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def flips(found: list[Span], count: int, chance: random.Random) -> list[Flip]:
    """Every structured byte, the rest sampled; a random part of these if that is too many."""
    chosen = []
    bodies = []
    for span in found:
        if span.meaning.endswith(SAMPLED):
            bodies.append(span)
        else:
            chosen += [_flip(span, offset, chance) for offset in range(span.start, span.end)]
    if len(chosen) > count // 2 and count < 20_000:
        chosen = chance.sample(chosen, count // 2)
    weights = [min(span.end - span.start, 8192) for span in bodies]  # so that journals come off no worse than packs
    for span in chance.choices(bodies, weights, k=max(0, count - len(chosen))):
        chosen.append(_flip(span, chance.randrange(span.start, span.end), chance))
    return chosen


def _flip(span: Span, offset: int, chance: random.Random) -> Flip:
    return Flip(span, offset, chance.choice([0xFF, *(1 << bit for bit in range(8))]))


class Judge:
    """Reads a store in every way and compares with what was put in."""

    def __init__(self, root: Path, original: Original) -> None:
        self._root, self._original = root, original

    def opened(self) -> Memory:
        """As a daemon that has everything open already when the bit turns over."""
        memory = Memory(self._root, lambda: NOW, reserve_bytes=0)
        for session in SESSIONS:
            memory.journal(session)
        return memory

    def hear(self, opened: Memory | None = None) -> Heard:
        """Everything; never raises."""
        heard = Heard()
        try:
            self._all(opened or Memory(self._root, lambda: NOW, reserve_bytes=0), heard)
        except SelfwareError as error:
            heard.wrong.append(f"not even opened: {type(error).__name__}: {error}")
        except Exception:  # noqa: BLE001 -- whatever it is, it is what this proof looks for
            heard.wrong.append("not an error of ours: " + " | ".join(traceback.format_exc().splitlines()[-5:]))
        return heard

    def _all(self, memory: Memory, heard: Heard) -> None:
        for session in SESSIONS:
            self._session(memory, session, heard)
        heard.at_open += memory.notes
        self._checkpoints(memory, heard)
        heard.at_scrub += [verdict.problem for verdict in memory.store.verify_all() if not verdict.intact]
        asyncio.run(memory.close())

    def _session(self, memory: Memory, session: str, heard: Heard) -> None:
        try:
            if memory.sessions.get(session).epoch != 1:
                heard.wrong.append(f"WRONG epoch of {session}")
            journal = memory.journal(session)
        except SelfwareError as error:
            self._refused(error, session, heard)
            return
        events, complete = self._original.events[session], False
        read = []
        try:
            for record in journal.read():
                read.append(record)
            complete = len(read) == len(events)
        except SelfwareError as error:
            complete = self._refused(error, f"event {len(read)}", heard)
        if read != events[: len(read)]:
            heard.wrong.append(f"WRONG BYTES in an event of {session}")
        if not complete and not any("unfinished bytes off" in note and session in note for note in journal.opened):
            heard.wrong.append(f"lost without a word: {session} has {len(read)} of {len(events)} events")
        self._recovery(memory, session, heard)

    def _recovery(self, memory: Memory, session: str, heard: Heard) -> None:
        recovery = asyncio.run(memory.recover(session))
        number = recovery.checkpoint.checkpoint_id if recovery.checkpoint else ""
        if recovery.state != self._original.states.get(number, b""):
            heard.wrong.append(f"WRONG BYTES: recovery of {session} from {number}")
        after = recovery.checkpoint.sequence if recovery.checkpoint else 0
        expected = self._original.events[session][after:]
        if list(recovery.events) != expected[: len(recovery.events)]:
            heard.wrong.append(f"WRONG BYTES: events of the recovery of {session}")
        fallen_back = number != self._original.newest[session] or len(recovery.events) != len(expected)
        if fallen_back and not (recovery.skipped or memory.notes):
            heard.wrong.append(f"recovery of {session} fell back to {number or 'nothing'} without a word")
        heard.at_read += recovery.skipped

    def _checkpoints(self, memory: Memory, heard: Heard) -> None:
        unreadable = {verdict.checkpoint_id for verdict in memory.store.unreadable()}
        listed = {info.checkpoint_id for info in memory.store.checkpoints()}
        for name, state in self._original.states.items():
            if name not in listed | unreadable:
                heard.wrong.append(f"lost without a word: {name}")
                continue
            try:
                if memory.store.load(name)[1] != state:
                    heard.wrong.append(f"WRONG BYTES in {name}")
            except SelfwareError as error:
                self._refused(error, name, heard)
        for name in (listed | unreadable) - set(self._original.states):
            heard.wrong.append(f"{name} was never saved")

    @staticmethod
    def _refused(error: SelfwareError, what: str, heard: Heard) -> bool:
        """Count a refusal; it must be of the kind that names what is lost, and this very thing."""
        names = what in error.sentence or isinstance(error, JournalCorruptError)
        if not isinstance(error, NAMED) or not names or "{" in str(error) or "(" in error.sentence[:1]:
            heard.wrong.append(f"not a clear error for {what}: {type(error).__name__}: {error}")
        heard.at_read.append(error.sentence)
        return True


def outcome(heard: Heard) -> str:
    """One word for the table."""
    if any("unfinished bytes off" in note for note in heard.at_open):
        return "cut as unfinished, with a note"
    if heard.at_read or heard.at_open:
        return "detected at read"
    return "detected at scrub only" if heard.at_scrub else "harmless"


def flip_all(seed: int, count: int, part: int, parts: int) -> tuple[Counter[str], list[str]]:
    """Every parts-th of the flips, in a store of our own."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with fast_directory() as base:
        root = Path(base) / "store"
        original = make(root, seed)
        before = taken(root)
        counts["bytes"] = sum(len(data) for data in before.values() if data)
        judge = Judge(root, original)
        if (calm := judge.hear()) != Heard():
            return counts, [f"undamaged: {calm}"]
        for number, one in enumerate(flips(spans(root), count, random.Random(seed))[part::parts]):
            path = root / one.span.path
            opened = judge.opened() if number % UNDER_RUNNING_EVERY == 1 else None
            _turn(path, one)
            heard = judge.hear(opened)
            counts["under a running store"] += opened is not None
            if number % GOES_ON_EVERY == 0:
                heard.wrong += _goes_on(root, Path(base) / "copy", before, one, original)
            where = f"{one.span.path} byte {one.offset} ({one.span.meaning}) mask {one.mask:#x}"
            wrong += [f"seed {seed}, {where}: {text}" for text in heard.wrong]
            result = outcome(heard)
            counts[result] += 1
            why = f" ({_why(one.span.meaning)})" if result == "harmless" else ""
            counts[f"{result}: {one.span.meaning}{why}"] += 1
            counts["a scrub finds it too"] += bool(heard.at_scrub)
            _restore(root, before, one.span.path)
    return counts, wrong


def _why(meaning: str) -> str:
    return next((why for end, why in WHY_HARMLESS.items() if meaning.endswith(end)), "unexplained")


def _goes_on(root: Path, copy: Path, before: Image, flip: Flip, original: Original) -> list[str]:
    """Damage and then work: it works or is refused in a sentence, and nothing that was right gets worse."""
    put(before, copy)
    _turn(copy / flip.span.path, flip)
    try:
        refused = goes_on(copy, SESSIONS)
    except Exception:  # noqa: BLE001 -- whatever it is, it is what this proof looks for
        return ["going on: not an error of ours: " + " | ".join(traceback.format_exc().splitlines()[-5:])]
    finally:
        shutil.rmtree(copy)
    lost_nothing = "header" in flip.span.meaning or "head" in flip.span.meaning
    return [f"going on refused though no event is lost: {one}" for one in refused if lost_nothing]


def _turn(path: Path, flip: Flip) -> None:
    with path.open("r+b") as file:
        file.seek(flip.offset)
        byte = file.read(1)[0]
        file.seek(flip.offset)
        file.write(bytes([byte ^ flip.mask]))


def _restore(root: Path, before: Image, flipped: str) -> None:
    (root / flipped).write_bytes(before[flipped] or b"")
    sizes = {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    if sizes != {path: len(data) for path, data in before.items() if data is not None}:
        shutil.rmtree(root)
        put(before, root)


def prove(rounds: int, seed: int, at_once: int = AT_ONCE) -> Verdict:
    """`rounds` flips."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    size = 0
    for counted, complaints in _parts(rounds, seed, at_once):
        size = counted.pop("bytes")
        counts += counted
        wrong += complaints
    print(json.dumps({"proof": "bitflips", "seed": seed, "bytes": size, **dict(sorted(counts.items()))}), flush=True)
    for text in wrong[:200]:
        say(text)
    total = sum(count for kind, count in counts.items() if kind in OUTCOMES)
    lost = sum("lost" in one or "WRONG" in one for one in wrong)
    return Verdict("bitflips", seed, rounds, total, lost, 0, 0, not wrong)


def _parts(rounds: int, seed: int, at_once: int) -> list[tuple[Counter[str], list[str]]]:
    if at_once == 1:
        return [flip_all(seed, rounds, 0, 1)]
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(flip_all, seed, rounds, part, at_once) for part in range(at_once)]
        return [one.result() for one in running]


if __name__ == "__main__":
    given = arguments("bitflips", rounds=24_000)
    sys.exit(report(prove(given.rounds, given.seed)))
