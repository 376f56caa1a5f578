"""Where a session goes on after anything happened: the newest intact checkpoint, then the events after it.

Changes nothing, so running it twice gives the same answer. What is damaged is passed over and named in a sentence;
the last resort is the empty state and the whole journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selfware_checkpointd.errors import CheckpointCorruptError, EventsLetGoError, JournalCorruptError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.segment import Record
from selfware_checkpointd.store import Store


@dataclass(frozen=True, slots=True)
class Recovery:
    """State, the events to fold into it, and what had to be passed over."""

    checkpoint: CheckpointInfo | None
    state: bytes
    events: tuple[Record, ...]
    skipped: tuple[str, ...]

    @property
    def last_sequence(self) -> int:
        """The last event known; the next one is numbered one more."""
        if self.events:
            return self.events[-1].sequence
        return self.checkpoint.sequence if self.checkpoint else 0


def candidates(checkpoints: Iterable[CheckpointInfo]) -> list[CheckpointInfo]:
    """In the order to try: the furthest event first; among equals first one without the workspaces, which a recovery
    does not need and which may be large; then the newest."""
    return sorted(
        checkpoints, key=lambda info: (info.sequence, info.level is not Level.SYSTEM, info.number), reverse=True
    )


def recover(session_id: str, store: Store, journal: Journal, checkpoint_id: str = "") -> Recovery:
    """The newest intact checkpoint (or the one that was asked for) with the events after it."""
    if checkpoint_id:
        checkpoint, state = store.load(checkpoint_id)
        events, notes = _tail(journal, checkpoint.sequence)
        return Recovery(checkpoint, state, events, notes)
    newest, state, skipped = newest_intact(session_id, store)
    events, notes = _tail(journal, newest.sequence if newest else 0)
    return Recovery(newest, state, events, skipped + notes)


def newest_intact(session_id: str, store: Store) -> tuple[CheckpointInfo | None, bytes, tuple[str, ...]]:
    """The first candidate that loads, its state, and a sentence for each damaged one before it."""
    skipped = [verdict.problem for verdict in store.unreadable(session_id)]
    for info in candidates(store.checkpoints(session_id)):
        try:
            _, state = store.load(info.checkpoint_id)
        except CheckpointCorruptError as error:
            skipped.append(error.sentence)
            continue
        return info, state, tuple(skipped)
    return None, b"", tuple(skipped)


def _tail(journal: Journal, after_sequence: int) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    events: list[Record] = []
    try:
        for record in journal.read(after_sequence):
            events.append(record)  # one by one, so that the good ones before an error stay
    except (JournalCorruptError, EventsLetGoError) as error:
        return tuple(events), (error.sentence,)
    return tuple(events), ()
