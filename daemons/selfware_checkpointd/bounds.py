"""Keeps everything below one root within one limit, whatever is saved and for however long.

Upkeep lets checkpoints and events go that the policy does not keep, and frees a little more than the limit asks. A
save says beforehand how large it can become at most; if that does not fit, room is made at once, by the same rules.
What must stay stays: then the save is refused with a sentence, and the journal goes on.

Owns the reserve. Never decides what may go: ``thinning`` and ``trimming`` do.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from selfware_checkpointd import trimming
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.reserve import BLOCK, Reserve
from selfware_checkpointd.retention import Retention
from selfware_checkpointd.room import Room
from selfware_checkpointd.sessions import Sessions
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Policy
from selfware_common.errors import DiskFullError, SelfwareError

AGAIN_SECONDS = 5.0  # after making room was in vain, appends do not ask for it again before
CHUNK_BYTES = 128  # what a pack says of a chunk, at most: twice its head, and a run of the manifest
PACK_BYTES = 64 * 1024  # headers, labels
T = TypeVar("T")


class Bounds:
    """Of one memory. Blocking; thread-safe."""

    def __init__(
        self,
        root: Path,
        room: Room,
        store: Store,
        sessions: Sessions,
        journals: dict[str, Journal],
        policy: Policy,
        clock: Callable[[], int],
        reserve_bytes: int,
    ) -> None:
        self.room = room
        self.reserve = Reserve(root, reserve_bytes)
        self.notes: list[str] = []
        self._told: set[str] = set()
        self._store, self._sessions, self._journals = store, sessions, journals
        self._retention = Retention(store)
        self._policy = policy
        self._clock = clock
        self._journal_base = 0
        self._aside = store.tiers.aside_bytes()
        self._next_try = 0.0
        self._count_journals()
        room.sizes += [
            lambda: store.disk_bytes() + BLOCK * store.disk_files(),
            lambda: self._journal_base + self._grown(),
            lambda: self.reserve.size_bytes,
            lambda: self._aside,
        ]
        room.make = self._make_room

    def saving(self, level: Level, most_bytes: int, most_chunks: int, save: Callable[[], T]) -> T:
        """Do it with room for so many new bytes in so many chunks; on a full disk once more, without the reserve."""
        size = most_bytes + (most_bytes >> 6) + CHUNK_BYTES * most_chunks + PACK_BYTES
        with self.room.claim(size):
            try:
                return save()
            except DiskFullError as error:
                if level is Level.MICRO or not self.reserve.release():
                    raise
                self.notes.append(f"{error.sentence} The reserve was given away for a {level.name.lower()} checkpoint.")
                return save()

    def is_tight(self) -> bool:
        """Should room be made before more events come? Quick."""
        return self.room.left_bytes() < self.room.margin_bytes // 2 and time.monotonic() >= self._next_try

    def loosen(self) -> None:
        """Make room for events; if that is in vain, or somebody is at it already, they come all the same."""
        if self.room.making.locked():  # that may take as long as a cold store lets it wait
            return
        self.room.want(self.room.margin_bytes)
        if self.is_tight():
            self._next_try = time.monotonic() + AGAIN_SECONDS

    def keep(self, policy: Policy, open_journal: Callable[[str], Journal]) -> str:
        """Let go what may go, and have the reserve again; one sentence."""
        with self.room.making:
            self._policy, self.room.limit_bytes = policy, policy.max_size_bytes
            trimmed, self._aside = 0, self._store.tiers.aside_bytes()
            try:
                trimmed = self._trim(open_journal)
            except SelfwareError as error:  # no room for a floor, say: then checkpoints have to make some
                self._tell(error.sentence)
            said = self._retention.run(policy, self._clock(), lambda: self.room.free_bytes - self.room.left_bytes())
            self._take_notes()
        self.room.forget_a_little()
        self.reserve.renew(policy.max_size_bytes, self.room.left_bytes() - self.room.margin_bytes)
        return f"{said}; let {trimmed} journal segments go" if trimmed else said

    def taken_notes(self) -> list[str]:
        """What somebody should read, once."""
        notes, self.notes = self.notes, []
        return notes

    def _make_room(self, size: int) -> None:
        wanted = size + self.room.free_bytes // 4
        try:
            self._retention.make_room(self._policy, self._clock(), lambda: wanted - self.room.left_bytes())
        except SelfwareError as error:  # whether there is room all the same shows itself
            self._tell(f"no room could be made: {error.sentence}")
        self._take_notes()

    def _take_notes(self) -> None:
        self.notes += self._retention.notes
        self._retention.notes.clear()

    def _trim(self, open_journal: Callable[[str], Journal]) -> int:
        """Let events go that intact checkpoints hold; how many segments."""
        closed: list[trimming.Closed] = []
        for session in self._count_journals():
            try:
                closed += open_journal(session).closed()
            except SelfwareError as error:  # its key is missing, say, or what covers it is away
                self._tell(error.sentence)
        policy, now = self._policy, self._clock()
        going = trimming.too_old(closed, now, policy.retention_days) if policy.retention_days >= 0 else []
        going += trimming.too_many(closed, self._journal_base + self._grown(), policy.max_size_bytes)
        wanted: dict[str, int] = {}
        for one in going:
            wanted[one.session_id] = min(one.last, wanted.get(one.session_id, one.last))
        covered = {session: self._retention.covered(session, least, now) for session, least in wanted.items()}
        floors = trimming.through(going, covered)
        count = sum(open_journal(session).trim(floor) for session, floor in floors.items())
        self._retention.floors |= {session: open_journal(session).floor for session in floors}
        if count:
            self._count_journals()
        return count

    def _tell(self, sentence: str) -> None:
        """Once: most of what is wrong is wrong every minute."""
        if sentence not in self._told:
            self._told.add(sentence)
            self.notes.append(sentence)

    def _count_journals(self) -> list[str]:
        """Look what all sessions take; those that have more than one segment."""
        grown, total, several = self._grown(), 0, []
        for session in self._sessions.all():
            directory = self._sessions.journal_directory(session)
            files = [*_files(directory), *_files(directory.parent)]
            if session not in self._retention.floors and any(name == trimming.FLOOR for name, _ in files):
                self._retention.floors[session] = trimming.read_floor(directory)
            total += sum(size + BLOCK for _, size in files)
            if sum(".wal" in name for name, _ in files) > 1:
                several.append(session)
        self._journal_base = total - grown
        return several

    def _grown(self) -> int:
        return sum(journal.grown_bytes for journal in list(self._journals.values()))


def _files(directory: Path) -> list[tuple[str, int]]:
    found = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # sealed meanwhile
                if entry.is_file(follow_symlinks=False):
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
    return found
