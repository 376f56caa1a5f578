"""Lets checkpoints go: asks ``thinning`` which, sees to it that an intact one stays and the disk below its limit.

Before anything of a session is deleted one of its checkpoints is read, newest first, until one is whole: that one
stays, and counts as intact for a while. If none is, nothing of the session goes. Chunks are shared, so deleting frees
less than it seems: while there is too little room, packs in which much is dead are written anew, then more has to go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from selfware_checkpointd.errors import FormatVersionError, StorageError, TagsCorruptError
from selfware_checkpointd.manifest import CheckpointInfo, Level, checkpoint_id
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import NANOS, Checkpoint, Plan, Policy, plan, ruined
from selfware_common.errors import DiskFullError, SelfwareError

EVERYTHING = 1 << 62
RECLAIM_BYTES = 256 * 1024 * 1024  # read at a time, before something is deleted instead
WORTH_RECLAIMING = 0.2  # of a pack is dead: less than that is not written anew even when there is no room
INTACT_NANOS = 900 * NANOS  # so long a checkpoint that was read counts as intact

Excess = Callable[[], int]
"""How many bytes too much there are."""


def newest_only(keep: Mapping[Level, int]) -> Policy:
    """The policy that keeps so many of each level and session, and nothing for its age."""
    return Policy(retention_days=-1, max_size_bytes=EVERYTHING, keep=keep)


def retain(store: Store, policy: Policy, now_unix_nanos: int) -> str:
    """Delete what may go; one sentence. For those who do it once."""
    return Retention(store).run(policy, now_unix_nanos, lambda: store.disk_bytes() - policy.max_size_bytes)


class Retention:
    """Of one store. Blocking; one call at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._intact: dict[str, tuple[int, int]] = {}  # per session, a checkpoint and until when it counts as intact
        self._uncovered: dict[str, int] = {}  # sessions whose old events must stay, and until when not to ask again
        self.floors: dict[str, int] = {}  # per session, the last event that was let go
        self.notes: list[str] = []  # what was let go though nobody can have wanted it to: damaged ones

    def run(self, policy: Policy, now_unix_nanos: int, excess: Excess) -> str:
        """Delete what is too old or stands too close to others, and then until there is no excess; one sentence."""
        try:
            self._store.tags.tagged()
        except (TagsCorruptError, StorageError, FormatVersionError) as error:
            return f"deleted nothing: {error.sentence}"
        _, said = self._delete(replace(policy, max_size_bytes=EVERYTHING), now_unix_nanos, is_full=False)
        # while the daemon stops nothing is packed any more: that is no reason to delete it instead
        more = self.make_room(policy, now_unix_nanos, lambda: 0 if self._store.is_ending else excess())
        return f"{said}; {more}" if more else said

    def make_room(self, policy: Policy, now_unix_nanos: int, excess: Excess) -> str:
        """Only the latter; "" if there is no excess."""
        said = []
        while excess() > 0:
            with suppress(DiskFullError):  # then more has to go
                self._store.tighten(RECLAIM_BYTES, WORTH_RECLAIMING)
            over = excess()
            if over <= 0:
                break
            kept = self._store.checkpoints()
            limit = max(0, sum(info.stored_bytes for info in kept) - over)
            before = self._store.disk_bytes()
            planned, more = self._delete(replace(policy, max_size_bytes=limit), now_unix_nanos, is_full=True)
            said.append(more)
            if before == self._store.disk_bytes() and len(kept) == len(self._store.checkpoints()):
                said.append(planned.sentence)
                break
        return "; ".join(said)

    def verified(self, session_id: str, now_unix_nanos: int) -> int:
        """The number of an intact checkpoint of this session, the newest when it was looked for; 0 if there is none."""
        number, until = self._intact.get(session_id, (0, 0))
        infos = self._store.checkpoints(session_id)
        if now_unix_nanos >= until or all(info.number != number for info in infos):
            intact = (info.number for info in infos if self._is_intact(info))
            number = next(intact, 0)
            self._intact[session_id] = (number, now_unix_nanos + INTACT_NANOS)
        return number

    def covered(self, session_id: str, wanted: int, now_unix_nanos: int) -> int:
        """The last event that two intact checkpoints hold, micro ones aside; 0 if there are not two. If that is less
        than what is wanted it is not looked for again for a while."""
        if now_unix_nanos < self._uncovered.get(session_id, 0):
            return 0
        larger = (info for info in self._store.checkpoints(session_id) if info.level > Level.MICRO)
        intact = (info.sequence for info in larger if self._is_intact(info))
        two = list(islice(intact, 2))
        sequence = min(two) if len(two) == 2 else 0
        if sequence < wanted:
            self._uncovered[session_id] = now_unix_nanos + INTACT_NANOS
        return sequence

    def _is_intact(self, info: CheckpointInfo) -> bool:
        """One that cannot be read now, or is gone meanwhile, is not known to be: what is its own stays, and it holds up
        nobody else's."""
        try:
            return self._store.verify(info.checkpoint_id).intact
        except SelfwareError:
            return False

    def _delete(self, policy: Policy, now: int, is_full: bool) -> tuple[Plan, str]:
        infos = self._store.checkpoints()
        tagged = self._store.tags.tagged() | holders(infos, self.floors)
        ruins = self._store.ruins()
        planned = plan(_described(infos, {}, tagged), now, policy)
        gone = {one.number for one in planned.delete}
        losing = {info.session_id for info in infos if info.number in gone or ruins}
        intact = {session: self.verified(session, now) for session in sorted(losing)}
        planned = plan(_described(infos, intact, tagged), now, policy)
        ruins = [one for one in ruins if one.number not in tagged]
        going = (*ruined(ruins, intact, now, policy, is_full), *planned.delete)
        for one in going[: len(going) - len(planned.delete)]:
            self.notes.append(f"{checkpoint_id(one.number)} was deleted: {one.reason}")
        return replace(planned, delete=going), self._store.delete([one.number for one in going])


def holders(infos: list[CheckpointInfo], floors: Mapping[str, int]) -> set[int]:
    """Numbers of the checkpoints that stand for events that were let go: of such a session the two furthest, micro ones
    aside. Where nothing was saved out of order they are its newest."""
    found: set[int] = set()
    for session_id, floor in floors.items():
        own = [info for info in infos if info.session_id == session_id and info.level > Level.MICRO]
        own = [info for info in own if info.sequence >= floor > 0]
        found |= {info.number for info in sorted(own, key=lambda info: (info.sequence, info.number))[-2:]}
    return found


def _described(infos: list[CheckpointInfo], intact: Mapping[str, int], tagged: frozenset[int]) -> list[Checkpoint]:
    """What the decision needs; of a session without an intact checkpoint all are as if a person wanted to keep them."""
    return [
        Checkpoint(
            info.number,
            info.session_id,
            info.level,
            info.created_unix_nanos,
            info.stored_bytes,
            tagged=intact.get(info.session_id) == 0 or info.number in tagged,
            verified=intact.get(info.session_id) == info.number,
        )
        for info in infos
    ]
