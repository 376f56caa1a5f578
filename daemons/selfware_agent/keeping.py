"""Makes the checkpoints: when the schedule says so, when a person asks, and before the agent stops.

A system checkpoint takes two parties: we save what the session knows, then oversightd, which may have files read,
saves that together with the workspaces. So that both fit, nothing is begun and nothing is under way in between
(Foreman.quiet); that may take a while, so it happens beside the agent's rounds, and is tried again later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfware_agent.checkpoint_schedule import NEVER, Facts, Level, Rules, Schedule
from selfware_agent.errors import NothingToSaveError, NotQuietError, NotSavedError
from selfware_agent.foreman import Foreman
from selfware_agent.hands import Hands
from selfware_agent.mind import Mind, Partial
from selfware_agent.state import Session
from selfware_agent.watch import Watch
from selfware_common.errors import SelfwareError
from selfware_common.rpc import checkpoint_pb2
from selfware_common.settings import Checkpoint as Wishes

QUIET_SECONDS = 10.0
"""How long other tasks may have to wait for an action that is under way; most end sooner."""
PERSON_QUIET_SECONDS = 60.0
AGAIN_SECONDS = 120.0
MOST_STREAM_CHARS = 64_000
RECENT_NANOS = 24 * 3600 * 10**9


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was made."""

    checkpoint_id: str
    sequence: int
    state_bytes: int
    stored_bytes: int
    notes: tuple[str, ...] = ()


class Keeper:
    """Owns the schedule. One save at a time."""

    def __init__(self, wishes: Wishes, foreman: Foreman, mind: Mind, hands: Hands, watch: Watch) -> None:
        self._foreman = foreman
        self._memory = foreman.memory
        self._mind = mind
        self._hands = hands
        self._watch = watch
        self._system: asyncio.Task[None] | None = None
        self._system_free_at = -NEVER
        self.system_trouble = ""
        self._rules = Rules.of(wishes)
        self._schedule = Schedule.begin(self._rules, time.monotonic())

    def follow(self, wishes: Wishes) -> None:
        """The settings are these from now on."""
        self._rules = Rules.of(wishes)
        self._schedule = self._schedule.with_rules(self._rules)

    def begin(self) -> None:
        """The session was recovered, or is another one: all intervals begin now."""
        facts = self.facts()
        saved = self._memory.checkpointed_sequence
        self._schedule = Schedule.begin(self._rules, time.monotonic(), saved, facts.ended_tasks)

    def facts(self) -> Facts:
        """What the schedule goes by."""
        session = self._memory.session
        return Facts(
            sequence=session.sequence,
            ended_tasks=sum(task.run if task.ended else task.run - 1 for task in session.tasks.values()),
            streamed_tokens=sum(stream.tokens for stream in self._mind.streams.values()),
            memory_short=self._watch.memory_short,
            disk_full=self._watch.disk_full,
            # During a pause somebody may be restoring: the files are old ones already, and what we know is not yet.
            system_free_at_seconds=NEVER if self._system is not None or self._watch.paused else self._system_free_at,
        )

    def due_in_seconds(self) -> float:
        """How long nothing has to be saved, if nothing changes."""
        return self._schedule.due_in_seconds(time.monotonic(), self.facts())

    def hindrance(self) -> str:
        """Why checkpoints are not made as they should be, or ''."""
        return self._memory.unsaved or self._schedule.pause_in_words(self.facts()) or self.system_trouble

    async def save_if_due(self) -> None:
        """The largest level that is due; with files it goes on beside us."""
        self._see_to_system()
        facts = self.facts()
        level = self._schedule.due(time.monotonic(), facts)
        if level is Level.SYSTEM:
            self._system = asyncio.create_task(self._save_system_on_schedule(), name="system checkpoint")
        elif level is not None:
            await self._save(level, f"event {facts.sequence}")

    async def save_on_stop(self) -> None:
        """The last one; no files: whoever goes on takes them as they are."""
        if self._system is not None:
            self._system.cancel()
            await asyncio.wait({self._system})
            self._system = None  # we may go on, with another session: then it is nobody's any more
        if level := self._schedule.due_on_stop(self.facts()):
            await self._save(level, "at stop")

    async def save_now(self, level: Level, label: str) -> Saved:
        """Because a person asks. Raises NotQuietError, NothingToSaveError, NotSavedError, CheckpointRefusedError."""
        if level is Level.SYSTEM:
            return await self._save_system(label, PERSON_QUIET_SECONDS)
        return await self._save_session(label)

    async def _save_system_on_schedule(self) -> None:
        facts, began = self.facts(), time.monotonic()
        try:
            await self._save_system(f"event {facts.sequence}", QUIET_SECONDS)
        except SelfwareError as error:
            self._system_free_at = time.monotonic() + AGAIN_SECONDS
            self.system_trouble = "" if isinstance(error, NotQuietError) else error.sentence
            return
        self.system_trouble = ""
        self._schedule = self._schedule.saved(Level.SYSTEM, began, time.monotonic(), facts)

    async def _save_system(self, label: str, quiet_seconds: float) -> Saved:
        async with self._foreman.quiet(quiet_seconds):
            base = await self._save_session(f"{label}, before its files")
            session = self._memory.session_saved
            where, open_ids = workspaces_of(session, time.time_ns()), open_effects(session)
            made = await self._hands.capture(self._memory.epoch, base.checkpoint_id, where, open_ids, label)
        return Saved(made.checkpoint_id, base.sequence, made.state_bytes, made.stored_bytes, tuple(made.notes))

    async def _save_session(self, label: str) -> Saved:
        facts, began = self.facts(), time.monotonic()
        info = await self._memory.checkpoint(checkpoint_pb2.LEVEL_SESSION, label)
        if info is None:
            if not self._memory.session.sequence:
                raise NothingToSaveError(session_id=self._memory.session_id)
            raise NotSavedError(session_id=self._memory.session_id, reason=self._memory.unsaved)
        self._schedule = self._schedule.saved(Level.SESSION, began, time.monotonic(), facts)
        return Saved(info.checkpoint_id, info.sequence, info.state_bytes, info.stored_bytes)

    async def _save(self, level: Level, label: str) -> None:
        facts, began = self.facts(), time.monotonic()
        streams = _told(self._mind.streams) if level is Level.MICRO else None
        info = await self._memory.checkpoint(checkpoint_pb2.Level.ValueType(level), label, streams)
        ended = time.monotonic()
        if info is None:
            self._schedule = self._schedule.failed(began, ended)
        else:
            self._schedule = self._schedule.saved(level, began, ended, facts)

    def _see_to_system(self) -> None:
        if self._system is not None and self._system.done():
            done, self._system = self._system, None
            done.result()  # what nobody foresaw ends the process, as everywhere


def _told(streams: Mapping[str, Partial]) -> dict[str, Any]:
    """By request: how far, and the last of what was written."""
    return {
        name: {"tokens": stream.tokens, "text": "".join(stream.pieces)[-MOST_STREAM_CHARS:]}
        for name, stream in streams.items()
        if stream.tokens
    }


def workspaces_of(session: Session, now_unix_nanos: int) -> list[str]:
    """Where the session works, or has worked within a day: what goes back together with what it knows."""
    recent = now_unix_nanos - RECENT_NANOS
    tasks = [task for task in session.tasks.values() if not task.ended or task.observed.ended_unix_nanos > recent]
    return sorted({task.goal.workspace for task in tasks})


def open_effects(session: Session) -> list[str]:
    """Actions of which the session does not know the outcome."""
    return sorted(task.proposal.effect_id for task in session.tasks.values() if task.proposal is not None)
