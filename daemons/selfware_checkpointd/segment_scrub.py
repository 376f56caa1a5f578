"""Verifies sealed journal segments: zstd's checksum over all of each, and if that fails, which events are lost.

There is one copy of a segment, so nothing heals it, unless the plain one is still there; but a checkpoint made after
its last event stands in for all of them. Changes nothing else. Blocking: for a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from selfware_checkpointd import sealing
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.sessions import Sessions
from selfware_checkpointd.store import Store
from selfware_checkpointd.vault import NO_VAULT, Vault
from selfware_common.errors import SelfwareError


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed segment and its events."""

    session_id: str
    first: int
    last: int
    size_bytes: int


class SegmentScrub:
    """Reads the journals of all sessions; asks the store which checkpoint covers what."""

    def __init__(self, sessions: Sessions, store: Store, vault: Vault = NO_VAULT) -> None:
        self._vault = vault
        self._sessions = sessions
        self._store = store

    def all(self) -> list[Segment]:
        """Every sealed segment that another one follows, in a fixed order."""
        found = []
        for session_id in self._sessions.all():
            directory = self._sessions.journal_directory(session_id)
            firsts = sealing.first_sequences(directory) if directory.is_dir() else []
            for first, following in pairwise(firsts):
                path = sealing.compressed_path(directory, first)
                if path.exists():
                    found.append(Segment(session_id, first, following - 1, path.stat().st_size))
        return found

    def check(self, one: Segment) -> str:
        """One sentence if it is damaged, else ""."""
        directory = self._sessions.journal_directory(one.session_id)
        path, keys = sealing.compressed_path(directory, one.first), JournalKeys(one.session_id, self._vault)
        if not path.exists() or sealing.gives_all(path, one.first, keys):
            return ""
        if sealing.plain_path(directory, one.first).exists():
            sealing.compress(directory, one.first, keys)
            return f"journal of {one.session_id}: {path.name} was damaged and is sealed again from the plain segment"
        seen = keys.scan(sealing.read_segment(directory, one.first, keys=keys), one.first)
        read = {placed.record.sequence for placed in seen.records}
        lost = [sequence for sequence in range(one.first, one.last + 1) if sequence not in read]
        if not lost:
            return f"journal of {one.session_id}: {path.name} is damaged, and every event of it can still be read"
        said = f"journal of {one.session_id}: {path.name} is damaged, events {lost[0]} to {lost[-1]} are lost"
        cover = self._cover(one.session_id, lost[-1])
        return f"{said}; {cover} covers them" if cover else f"{said}, and no checkpoint covers them"

    def _cover(self, session_id: str, sequence: int) -> str:
        """An intact checkpoint whose state has these events in it."""
        for info in self._store.checkpoints(session_id):
            if info.sequence >= sequence:
                try:
                    if self._store.verify(info.checkpoint_id).intact:
                        return info.checkpoint_id
                except SelfwareError:
                    continue  # it is gone meanwhile
        return ""
