"""Makes a system checkpoint: a state that was saved, and with it the workspaces exactly as they were in that state.

Refused while an action runs in one of them, or when one that the state knows as open has begun: then files and
conversation would tell different stories. While the trees are read nothing begins there (holding). Every tree is in the
ledger before its checkpoint exists (trees). Hanging up cancels nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfware_common import log
from selfware_common.paths import Paths
from selfware_common.state.saving import Checkpoint
from selfware_common.state.sections import SESSION, WORKSPACE, SectionWriter
from selfware_oversightd import spool as spools
from selfware_oversightd import trees
from selfware_oversightd.effects import Effects
from selfware_oversightd.errands import Errands
from selfware_oversightd.errors import NotStateError, WorkspaceBusyError, WorkspaceUnknownError
from selfware_oversightd.holding import overlap
from selfware_oversightd.keepers import Keepers, Tree
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.records import State
from selfware_oversightd.spool import SYSTEM, Spool

LOG = logging.getLogger("selfware-oversightd")


@dataclass(frozen=True)
class Wish:
    """What the agent asks for; see CaptureRequest in protos/oversight.proto."""

    session_id: str
    epoch: int
    checkpoint_id: str
    workspaces: tuple[str, ...]
    open_effects: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Captured:
    """The checkpoint, and a sentence for each workspace of which not everything could be saved."""

    checkpoint: Checkpoint
    notes: tuple[str, ...]


class Captures:
    """One capture after the other."""

    def __init__(
        self,
        ledger: Ledger,
        effects: Effects,
        keepers: Keepers,
        where: Paths,
        most_bytes: Callable[[], int],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``most_bytes``: of one state; ``clock`` gives Unix nanoseconds."""
        self.turn = asyncio.Lock()  # of whoever works on workspaces
        self._ledger = ledger
        self._effects = effects
        self._keepers = keepers
        self._where = where
        self._most_bytes = most_bytes
        self._clock = clock
        self._errands: Errands[Captured] = Errands()

    async def capture(self, wish: Wish) -> Captured:
        """The system checkpoint, durable. WorkspaceBusyError: save the state again, and ask again."""
        self._check(wish)
        return await self._errands.run(self._capture(wish))

    async def close(self) -> None:
        """Give up what is under way: nothing of it counts."""
        await self._errands.close()

    async def _capture(self, wish: Wish) -> Captured:
        async with self.turn, spools.opened(self._where) as spool:
            writer = SectionWriter(spool.file)
            base = await spool.fetch(wish.checkpoint_id)
            _require_state(base, wish)
            spool.file.seek(base.state_bytes)
            writer.end(SESSION, wish.session_id)
            with self._effects.holds.on(wish.workspaces):
                self._check(wish)
                found = await self._read_trees(wish, spool, writer)
            writer.finish()
            self._record(wish, found)
            saved = await spool.save(wish.session_id, wish.epoch, base.sequence, wish.label)
        notes = tuple(_notes(wish, found))
        self._name(saved, base, found)
        for note in notes:
            LOG.warning("%s lacks something of %s", saved.checkpoint_id, note, extra=_fields(saved))
        return Captured(saved, notes)

    async def _read_trees(self, wish: Wish, spool: Spool, writer: SectionWriter) -> list[Tree]:
        found = []
        for workspace in dict.fromkeys(wish.workspaces):
            if not Path(workspace).is_dir() or os.path.realpath(workspace) != workspace:
                continue  # also if a link lies there by now: what it leads to is no workspace of that name
            left = self._most_bytes() - spool.file.tell()
            tree = await self._keepers.capture(workspace, spool, max(0, left))
            section = writer.end(WORKSPACE, workspace)
            if section.length != tree.stream_bytes or spool.stream_hash(section) != tree.stream_hash:
                raise AssertionError(f"the keeper of {workspace} said one thing and wrote another")
            found.append(tree)
        return found

    def _check(self, wish: Wish) -> None:
        registered = {goal.workspace for goal in self._ledger.goals()}
        for workspace in wish.workspaces:
            if workspace not in registered:
                raise WorkspaceUnknownError(workspace=repr(workspace[:200]))
        for effect_id in wish.open_effects:
            record = self._ledger.effect(effect_id)
            if record is not None and record.state not in {State.WAITING, State.HELD}:
                reason = f"action {effect_id} is {'running' if record.state is State.INTENT else record.state}"
                raise WorkspaceBusyError(workspace=record.workspace, reason=reason)
        for record in self._ledger.not_ended():
            if record.state is State.INTENT and overlap(record.workspace, wish.workspaces):
                raise WorkspaceBusyError(workspace=record.workspace, reason=f"action {record.effect_id} is running")

    def _record(self, wish: Wish, found: Sequence[Tree]) -> None:
        now = self._clock()
        with self._ledger.transaction() as connection:
            for tree in found:
                trees.record(connection, tree.stream_hash, tree.workspace, wish.session_id, now)

    def _name(self, saved: Checkpoint, base: Checkpoint, found: Sequence[Tree]) -> None:
        with self._ledger.transaction() as connection:
            for tree in found:
                trees.name(connection, tree.stream_hash, tree.workspace, saved.checkpoint_id)
            self._ledger.note(
                self._clock(),
                "captured",
                checkpoint_id=saved.checkpoint_id,
                session_id=saved.session_id,
                base=base.checkpoint_id,
                label=saved.label,
                trees={tree.workspace: tree.stream_hash for tree in found},
            )
        LOG.info("saved %d workspaces in %s", len(found), saved.checkpoint_id, extra=_fields(saved))


def _notes(wish: Wish, found: Sequence[Tree]) -> Iterator[str]:
    for workspace in sorted(set(wish.workspaces) - {tree.workspace for tree in found}):
        yield f"{workspace}: there is no such directory"
    yield from (note for tree in found if (note := tree.note()))


def _require_state(base: Checkpoint, wish: Wish) -> None:
    about = {"checkpoint_id": base.checkpoint_id, "session_id": wish.session_id}
    if base.session_id != wish.session_id:
        raise NotStateError(**about, problem=f"it belongs to session {base.session_id}")
    if base.level == SYSTEM:
        raise NotStateError(**about, problem="it is a system checkpoint itself")


def _fields(saved: Checkpoint) -> dict[str, object]:
    return log.fields(session_id=saved.session_id, checkpoint_id=saved.checkpoint_id)
