"""Puts workspaces back to a system checkpoint: for an operator, with everything paused, and only trees of our own.

    look: sections -> whose trees (ledger) -> where to -> each verified to its last byte, and compared
    do:   audit "restoring" -> each workspace made equal -> what waited there is undone, audit "restored"

Killed at any instant it may simply be repeated, and ends with the same trees. Restored into other directories (a fork),
it leaves the session and its questions alone. Hanging up cancels nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfware_common import log
from selfware_common.paths import Paths
from selfware_common.sockets import Peer
from selfware_common.state.saving import Checkpoint
from selfware_common.state.sections import WORKSPACE, Section, read_sections
from selfware_oversightd import approvals, trees
from selfware_oversightd import spool as spools
from selfware_oversightd.config import forbidden_places, require_not_ourselves
from selfware_oversightd.effects import Effects
from selfware_oversightd.errands import Errands
from selfware_oversightd.errors import ForeignTreeError, InvalidRequestError, NotPausedError
from selfware_oversightd.holding import overlap
from selfware_oversightd.keepers import Keepers
from selfware_oversightd.ledger import Ledger
from selfware_oversightd.records import Outcome, State
from selfware_oversightd.spool import Spool
from selfware_tool.refusal import RefusalError
from selfware_tool.workspace import resolve_workspace

LOG = logging.getLogger("selfware-oversightd")


@dataclass(frozen=True)
class Step:
    """One tree, and the directory that it goes to."""

    section: Section
    stream_hash: str
    directory: str


@dataclass(frozen=True)
class Restored:
    """What was done, or would be."""

    checkpoint: Checkpoint
    dry_run: bool
    workspaces: list[dict[str, Any]]
    undone: list[str]

    def shown(self) -> dict[str, Any]:
        """As the operator's API gives it."""
        return {
            **self.checkpoint._asdict(),
            "dry_run": self.dry_run,
            "workspaces": self.workspaces,
            "undone": self.undone,
        }


class Restores:
    """One restore after the other, and none beside a capture."""

    def __init__(
        self,
        ledger: Ledger,
        effects: Effects,
        keepers: Keepers,
        where: Paths,
        turn: asyncio.Lock,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``turn`` is held by whoever works on workspaces; ``clock`` gives Unix nanoseconds."""
        self._ledger = ledger
        self._effects = effects
        self._keepers = keepers
        self._where = where
        self._turn = turn
        self._clock = clock
        self._errands: Errands[Restored] = Errands()

    async def restore(
        self, checkpoint_id: str, into: Mapping[str, str], peer: Peer, *, dry_run: bool, files: bool = True
    ) -> Restored:
        """Make the workspaces, or the directories that ``into`` names for them, equal to the checkpoint; durable.
        Without ``files`` only what waits in the session is undone.

        NotPausedError unless everything stands still (a dry run needs no rest, nor does a place where nobody works);
        ForeignTreeError, InvalidRequestError, SystemStateError and what reading the checkpoint raises change nothing;
        TreeRestoreError, DiskFullError and KeeperGoneError may come half-way: repeat it.
        """
        if not dry_run and not into:
            self._require_still(checkpoint_id)
        return await self._errands.run(self._restore(checkpoint_id, into, peer, dry_run=dry_run, files=files))

    async def close(self) -> None:
        """Stop what is under way, wherever it is."""
        await self._errands.close()

    async def _restore(
        self, wanted: str, into: Mapping[str, str], peer: Peer, *, dry_run: bool, files: bool
    ) -> Restored:
        async with self._turn, spools.opened(self._where) as spool:
            checkpoint = await spool.fetch(wanted)
            steps = self._steps(checkpoint, spool, into) if files else []
            if dry_run:
                looked = [await self._take(spool, step, dry_run=True) for step in steps]
                return Restored(checkpoint, True, looked, self._waiting_ids(checkpoint) if not into else [])
            with self._effects.holds.on([step.directory for step in steps]):
                if self._is_at_work(steps) or not files:
                    self._require_still(checkpoint.checkpoint_id)
                for step in steps:
                    await self._take(spool, step, dry_run=True)
                self._note("restoring", checkpoint, steps, peer)
                done = [await self._take(spool, step, dry_run=False) for step in steps]
                undone = self._finish(checkpoint, steps, peer, undo=not into)
        return Restored(checkpoint, False, done, undone)

    async def _take(self, spool: Spool, step: Step, *, dry_run: bool) -> dict[str, Any]:
        told = await self._keepers.restore(step.directory, spool, step.section, step.stream_hash, dry_run=dry_run)
        return {"workspace": step.section.name, "directory": step.directory, **told}

    def _is_at_work(self, steps: Sequence[Step]) -> bool:
        """Whether some goal may have actions there; into new directories (a fork) one may restore at any time."""
        goals = [goal.workspace for goal in self._ledger.goals()]
        return any(overlap(step.directory, goals) for step in steps)

    def _require_still(self, checkpoint_id: str) -> None:
        if not self._ledger.control().still:
            raise NotPausedError(checkpoint_id=checkpoint_id, reason="actions may begin at any time")
        running = [record.effect_id for record in self._ledger.not_ended() if record.state is State.INTENT]
        if running:
            raise NotPausedError(checkpoint_id=checkpoint_id, reason=f"action {running[0]} is running")

    def _steps(self, checkpoint: Checkpoint, spool: Spool, into: Mapping[str, str]) -> list[Step]:
        sections = [one for one in read_sections(spool.file, checkpoint.checkpoint_id) if one.kind == WORKSPACE]
        names = [section.name for section in sections]
        if into and sorted(into) != sorted(names):
            raise InvalidRequestError(
                problem=f"'into' must name a directory for each of {', '.join(names) or 'nothing'}"
            )
        steps: list[Step] = []
        for section in sections:
            found = spool.stream_hash(section)
            if not trees.is_ours(self._ledger.connection, found, section.name):
                raise ForeignTreeError(checkpoint_id=checkpoint.checkpoint_id, workspace=section.name)
            directory = self._directory(into.get(section.name, section.name))
            if not into and directory != section.name:  # a link lies there by now; nobody said to follow it
                raise InvalidRequestError(problem=f"workspace {section.name} leads to {directory} by now")
            if into and overlap(directory, [step.directory for step in steps]):
                raise InvalidRequestError(problem=f"'into' names {directory} twice, or something in it")
            steps.append(Step(section, found, directory))
        return steps

    def _directory(self, path: str) -> str:
        try:
            real = resolve_workspace(path, forbidden_places(self._where, path))
            require_not_ourselves(real)
        except (RefusalError, ValueError) as error:
            raise InvalidRequestError(problem=str(error)) from error
        return real

    def _waiting_ids(self, checkpoint: Checkpoint) -> list[str]:
        waiting = {State.WAITING, State.HELD}
        return [
            record.effect_id
            for record in self._ledger.not_ended()
            if record.session_id == checkpoint.session_id and record.state in waiting
        ]

    def _finish(self, checkpoint: Checkpoint, steps: Sequence[Step], peer: Peer, *, undo: bool) -> list[str]:
        """One transaction: what waited belongs to a past that is no more."""
        now, undone = self._clock(), self._waiting_ids(checkpoint) if undo else []
        why = f"undone: the session was restored to {checkpoint.checkpoint_id}"
        with self._ledger.transaction() as connection:
            for effect_id in undone:
                record = self._ledger.effect(effect_id)
                assert record is not None
                if record.approval:
                    approvals.withdraw(connection, record.approval, now, peer, why)
                self._effects.end_in_transaction(record, Outcome(State.REFUSED, why), now)
            self._note_in_transaction(now, "restored", checkpoint, steps, peer, undone=undone)
        for effect_id in undone:
            self._effects.count_end(effect_id, State.REFUSED)
        ids = log.fields(session_id=checkpoint.session_id, checkpoint_id=checkpoint.checkpoint_id)
        LOG.info("restored %d workspaces to %s", len(steps), checkpoint.checkpoint_id, extra=ids)
        return undone

    def _note(self, kind: str, checkpoint: Checkpoint, steps: Sequence[Step], peer: Peer) -> None:
        with self._ledger.transaction():
            self._note_in_transaction(self._clock(), kind, checkpoint, steps, peer)

    def _note_in_transaction(
        self, now: int, kind: str, checkpoint: Checkpoint, steps: Sequence[Step], peer: Peer, **more: Any
    ) -> None:
        self._ledger.note(
            now,
            kind,
            checkpoint_id=checkpoint.checkpoint_id,
            session_id=checkpoint.session_id,
            directories={step.section.name: step.directory for step in steps},
            uid=peer.uid,
            pid=peer.pid,
            **more,
        )
