"""Verifies everything at rest, little by little: within so many days each pack, its copy in the cold store, and each
sealed journal segment is read once, evenly spread. What is wrong is healed (``healing``) or told exactly.

Damage that is told: which checkpoint, and how much of it is lost; which events of a journal, and whether a checkpoint
stands in for them. Owns the file ``scrub`` (``scrub_note``), written when a turn came further. Blocking: for a thread.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selfware_checkpointd.catalog import Catalog, Pack
from selfware_checkpointd.errors import disk_error
from selfware_checkpointd.files import write_durably
from selfware_checkpointd.healing import Healer, Result
from selfware_checkpointd.manifest import Run, checkpoint_id
from selfware_checkpointd.scrub_note import ALL_PACKS, Note, decode_note, encode_note
from selfware_checkpointd.upkeep import Upkeep
from selfware_checkpointd.uses import Uses

if TYPE_CHECKING:
    from selfware_checkpointd.segment_scrub import Segment, SegmentScrub

TURN_BYTES = 64 * 1024 * 1024  # at most, in a turn; one pack or segment is read at once
DAY_NANOS = 86_400 * 1_000_000_000
NOTE = "scrub"


@dataclass(frozen=True, slots=True)
class ScrubPolicy:
    """[checkpoint] scrub_days and cold.scrub."""

    days: float = 7.0
    with_cold: bool = True


@dataclass(frozen=True, slots=True)
class Damage:
    """What is lost of a checkpoint: a sentence for people."""

    checkpoint_id: str
    lost_bytes: int
    sentence: str


class Scrub:
    """Works on one catalog and the journals beside it."""

    def __init__(self, catalog: Catalog, upkeep: Upkeep, healer: Healer) -> None:
        self._catalog = catalog
        self._upkeep = upkeep
        self._healer = healer
        self._uses = Uses(catalog, upkeep.lock)
        self._path = catalog.directory / NOTE
        self._turning = threading.Lock()
        self._reported: set[tuple[str, int]] = set()
        self._damage: dict[int, Damage] = {}
        self._news: list[Damage] = []
        self.segments: SegmentScrub | None = None
        self.notes: list[str] = []
        try:
            self._note = decode_note(self._path.read_bytes())
        except OSError:
            self._note = Note()

    def damage(self) -> dict[int, Damage]:
        """What is known to be damaged, by the checkpoint's number; as of the last turn."""
        return dict(self._damage)

    def taken_news(self) -> list[Damage]:
        """Damage that nobody was told of yet, once."""
        taken, self._news = self._news, []
        return taken

    def taken_notes(self) -> list[str]:
        """The notes, once."""
        taken, self.notes = self.notes, []
        return taken

    def turn(self, policy: ScrubPolicy, now_unix_nanos: int, most_bytes: int = TURN_BYTES) -> str:
        """Verify what is due by now; one sentence, "" if all of it was right."""
        with self._turning:
            try:
                return self._turn(policy, now_unix_nanos, most_bytes) if policy.days > 0 else ""
            except OSError as error:
                raise disk_error(error, "what the scrub found", self._path) from error
            finally:
                self._see_damage()

    def _turn(self, policy: ScrubPolicy, now: int, most_bytes: int) -> str:
        period = round(policy.days * DAY_NANOS)
        note = self._begun(now, period)
        segments = self.segments.all() if self.segments else []
        sizes = self._sizes(policy)
        total = sum(sizes.values()) + sum(one.size_bytes for one in segments)
        due = min(1.0, max(0, now - note.began_unix_nanos) / period) * total
        done = float(sum(size for number, size in sizes.items() if number < note.next_pack))
        read, results, step_aside = 0, dict.fromkeys(Result, 0), self._upkeep.precedence.turn().step_aside
        for number in [number for number in sorted(sizes) if number >= note.next_pack]:
            if done >= due or read >= most_bytes or self._upkeep.is_ending:
                break
            step_aside()
            result = self._check(number, policy.with_cold)
            results[result] += 1
            if result is Result.LATER:
                break
            done, read = done + sizes[number], read + sizes[number]
            note = replace(note, next_pack=number + 1)
        else:
            note = replace(note, next_pack=ALL_PACKS)
        if note.next_pack == ALL_PACKS:
            done += sum(one.size_bytes for one in segments[: note.segments])
            note = self._turn_segments(note, segments, due - done, most_bytes - read, results)
        if note != self._note:
            write_durably(self._path, [encode_note(note)])
            self._note = note
        self.notes += self._healer.notes
        self._healer.notes.clear()
        return _sentence(results)

    def _check(self, number: int, with_cold: bool) -> Result:
        """A pack that the disk does not give is told, and keeps nobody from reading the others."""
        try:
            return self._healer.check(number, with_cold)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.notes.append(f"{checkpoint_id(number)} cannot be read or healed: {error.strerror or error}")
            return Result.DAMAGED

    def _begun(self, now: int, period: int) -> Note:
        """The pass that is under way; a new one when the last one's time is over, or the clock went back."""
        note = self._note
        segments = len(self.segments.all()) if self.segments else 0
        is_over = note.next_pack == ALL_PACKS and note.segments >= segments
        if (is_over and now >= note.began_unix_nanos + period) or now < note.began_unix_nanos:
            return Note(now, 0, 0)
        return note

    def _turn_segments(
        self, note: Note, segments: list[Segment], due: float, most_bytes: int, results: dict[Result, int]
    ) -> Note:
        for one in segments[note.segments :]:
            if due <= 0 or most_bytes <= 0 or self._upkeep.is_ending:
                return note
            assert self.segments is not None
            said = self.segments.check(one)
            results[Result.DAMAGED if said else Result.RIGHT] += 1
            if said:
                self.notes.append(said)
            due, most_bytes = due - one.size_bytes, most_bytes - one.size_bytes
            note = replace(note, segments=note.segments + 1)
        return note

    def _sizes(self, policy: ScrubPolicy) -> dict[int, int]:
        """How much there is to read of each pack, with its copy."""
        with self._upkeep.lock:
            packs = dict(self._catalog.packs)
        return {number: _size(pack, policy.with_cold) for number, pack in packs.items()}

    def _see_damage(self) -> None:
        with self._upkeep.lock:
            lost = {number: set(chunks) for number, chunks in self._catalog.lost.items() if chunks}
        touched = [one.info.number for one in self._uses.all()[0] if not one.packs.isdisjoint(lost)] if lost else []
        with self._upkeep.lock:
            found = damage_of(self._catalog, lost, touched)
            for number, pack in self._catalog.packs.items():
                if pack.is_live and pack.problem:
                    name = checkpoint_id(number)
                    found[number] = Damage(name, 0, f"{name} cannot be read at all: {pack.problem}")
        self._damage = found
        for one in found.values():
            if (one.checkpoint_id, one.lost_bytes) not in self._reported:
                self._reported.add((one.checkpoint_id, one.lost_bytes))
                self._news.append(one)


def damage_of(catalog: Catalog, lost: Mapping[int, set[int]], numbers: Iterable[int]) -> dict[int, Damage]:
    """What the lost chunks (per pack) mean for these checkpoints. One that lies elsewhere too is not lost."""
    found = {}
    for number in numbers:
        pack = catalog.packs.get(number)
        if pack is None or pack.info is None:
            continue
        try:
            runs = catalog.runs_of(number)
        except ValueError:
            continue
        chunks, size = _lost_of(runs, catalog.packs, lost, lambda digest: digest in catalog.places)
        if chunks:
            name, all_bytes = checkpoint_id(number), pack.info.state_bytes
            found[number] = Damage(name, size, f"{chunks} chunks of {name} are lost, {size} of its {all_bytes} bytes")
    return found


def _lost_of(
    runs: list[Run], packs: Mapping[int, Pack], lost: Mapping[int, set[int]], is_elsewhere: Callable[[bytes], bool]
) -> tuple[int, int]:
    chunks = size = 0
    for run in runs:
        for index in lost.get(run.pack, ()):
            if not run.first <= index < run.first + run.count:
                continue
            pack = packs.get(run.pack)
            group = pack.group_of(index) if pack else None
            if group is not None and not is_elsewhere(group.hashes[index - group.first]):
                chunks, size = chunks + 1, size + group.lengths[index - group.first]
    return chunks, size


def _size(pack: Pack, with_cold: bool) -> int:
    size = sum(group.stored_bytes for group in pack.groups) if pack.is_here else 0
    return size + (pack.stub.pack_bytes if with_cold and pack.stub else 0)


def _sentence(results: Mapping[Result, int]) -> str:
    parts = [f"healed {results[Result.HEALED]} packs"] if results[Result.HEALED] else []
    parts += [f"found damage in {results[Result.DAMAGED]} files"] if results[Result.DAMAGED] else []
    return ", ".join(parts)
