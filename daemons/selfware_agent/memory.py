"""The agent's memory: every event goes to checkpointd and is durable before the state moves.

Owns the session (its writer epoch, its sequence, its folded state). A lost connection means waiting and appending the
same bytes again, which checkpointd recognises; a newer writer means that this process must end.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from selfware_agent import fold, past, rewinding, state
from selfware_agent.appending import Appender
from selfware_agent.errors import (
    CheckpointRefusedError,
    SessionExistsError,
    StateUnreadableError,
    SupersededError,
    UnknownSessionError,
)
from selfware_common import clients, events
from selfware_common.errors import SelfwareError
from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc
from selfware_common.state.saving import Checkpoint, Saver, SavingError

CALL_SECONDS = 30.0
CLOSE_SECONDS = 2.0
RESTORED = "SessionRestored"
LAST_ENDS = {
    checkpoint_pb2.LAST_END_UNKNOWN: "",
    checkpoint_pb2.LAST_END_GRACEFUL: ", after a polite stop",
    checkpoint_pb2.LAST_END_CRASH: ", after a crash",
}
# A restarting or overloaded checkpointd, a full disk: all pass, and nothing may happen until they have.
PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class Memory:
    """One session as its only writer."""

    def __init__(self, channel: grpc.aio.Channel, bulk: Path, spool: Path, session_id: str) -> None:
        """``bulk``: checkpointd's socket for states; ``spool``: a directory for large ones that are read."""
        self._stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        self._appender = Appender(self._stub, CALL_SECONDS)
        self._bulk = bulk
        self._spool = spool
        self._saver: Saver | None = None
        self._recording: set[asyncio.Task[state.Session]] = set()
        self._saving = asyncio.Lock()
        self._lock = asyncio.Lock()
        self.session_id = session_id
        self.epoch = 0
        self.session = state.Session()
        self.trouble = ""  # why the last append had to wait, for the status line
        self.unsaved = ""  # why the last checkpoint could not be taken
        self.recovered_in_words = ""
        self.checkpointed_sequence = 0  # the last event that the newest checkpoint holds
        self.session_saved = self.session  # what the newest checkpoint of ours holds
        self.ended: SelfwareError | None = None  # why this process may not go on

    async def recover(self) -> None:
        """Become the writer; fold the newest intact checkpoint and the events after it.

        Raises grpc.aio.AioRpcError while checkpointd is away, StateUnreadableError when it holds nonsense.
        """
        opened = await self._stub.OpenSession(
            checkpoint_pb2.OpenSessionRequest(
                session_id=self.session_id, writer_id=f"selfware-agent pid {os.getpid()}"
            ),
            timeout=CALL_SECONDS,
        )
        session, skipped, used, self.checkpointed_sequence, went_back = await self._replay(self.session_id)
        self.epoch = opened.epoch
        self.session = session
        words = f"recovered session {self.session_id} at event {session.sequence} from {used or 'its first event'}"
        self.recovered_in_words = ", ".join([f"{words}{LAST_ENDS[opened.last_end]}", *skipped])
        if went_back:  # the restore did not come to save it: as long as nobody does, we need the other checkpoint
            await self.checkpoint(checkpoint_pb2.LEVEL_SESSION, f"restored from {went_back}")

    async def record(self, kind: str, **payload: Any) -> state.Session:
        """Make one event durable, then the state it leads to ours. Waits as long as checkpointd is away; raises
        SupersededError. What cannot be folded is never made durable: no later start could read the session.

        Who is cancelled meanwhile stops waiting, no more: an event that may be durable has to become ours, too."""
        recording = asyncio.create_task(self._record(kind, payload))
        self._recording.add(recording)
        recording.add_done_callback(self._recorded)
        return await asyncio.shield(recording)

    async def require_session(self, session_id: str) -> None:
        """Raises UnknownSessionError: opening one that does not exist would begin it; StateUnreadableError: whoever
        opened another program's, or a damaged one, would end, and be the one to open it again after every start."""
        known = await self._stub.ListSessions(checkpoint_pb2.ListSessionsRequest(), timeout=CALL_SECONDS)
        if session_id not in {one.session_id for one in known.sessions}:
            raise UnknownSessionError(session_id=session_id)
        if session_id != self.session_id:
            await self._replay(session_id)

    async def close(self) -> None:
        """We stop as we should. If checkpointd cannot be told, the next start takes it for a crash, which does no
        harm."""
        if self.epoch and self.ended is None:
            request = checkpoint_pb2.CloseSessionRequest(session_id=self.session_id, epoch=self.epoch)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._stub.CloseSession(request, timeout=CLOSE_SECONDS)

    async def settled(self) -> None:
        """Return when nothing is being recorded any more."""
        while self._recording:
            await asyncio.wait(self._recording)

    def switch(self, session_id: str) -> None:
        """Be another session's memory: ``recover`` comes next."""
        if self._saver is not None:
            self._saver.close()
            self._saver = None
        self.session_id, self.session, self.epoch = session_id, state.Session(), 0

    async def restore(self, checkpoint_id: str) -> Checkpoint:
        """Go back to what a checkpoint of this session knew: durable on return, and the work after it undone.

        Raises CheckpointRefusedError, ForeignCheckpointError, StateUnreadableError: then nothing changed.
        """
        info, then = await asyncio.to_thread(past.read, self._bulk, self._spool, checkpoint_id, self.session_id)
        async with self._lock:
            sequence = self.session.sequence + 1
            branch = rewinding.branch_of(self.session_id, sequence)
            event = self._event(RESTORED, {"checkpoint_id": info.checkpoint_id, "branch": branch, "task_id": ""})
            await self._append(event)
            later_nanos = event.time_unix_nanos - info.created_unix_nanos
            self.session = rewinding.restored(then, branch, sequence, later_nanos)
        # Not needed, but from here on no recovery has to look for the other one.
        await self.checkpoint(checkpoint_pb2.LEVEL_SESSION, f"restored from {info.checkpoint_id}")
        return info

    async def fork(self, checkpoint_id: str, session_id: str, workspaces: Mapping[str, str]) -> tuple[Any, Checkpoint]:
        """(session, checkpoint) of a new session that knows what a checkpoint knew; ours stays as it is.

        Raises SessionExistsError, and what ``restore`` raises.
        """
        known = await self._stub.ListSessions(checkpoint_pb2.ListSessionsRequest(), timeout=CALL_SECONDS)
        if session_id in {one.session_id for one in known.sessions}:
            raise SessionExistsError(session_id=session_id)
        info, then = await asyncio.to_thread(past.read, self._bulk, self._spool, checkpoint_id, "")
        session = rewinding.forked(then, session_id, workspaces, time.time_ns() - info.created_unix_nanos)
        opened = await self._stub.OpenSession(
            checkpoint_pb2.OpenSessionRequest(session_id=session_id, writer_id=f"fork of {info.checkpoint_id}"),
            timeout=CALL_SECONDS,
        )

        def save() -> Checkpoint:
            with Saver(self._bulk, session_id, CALL_SECONDS) as saver:
                data, label = session.encode(), f"forked from {info.checkpoint_id}"
                return saver.save(opened.epoch, int(checkpoint_pb2.LEVEL_SESSION), session.sequence, data, label)

        try:
            made = await asyncio.to_thread(save)
            request = checkpoint_pb2.CloseSessionRequest(session_id=session_id, epoch=opened.epoch)
            await self._stub.CloseSession(request, timeout=CALL_SECONDS)
            return session, made
        except SavingError as error:
            raise CheckpointRefusedError(checkpoint_id=info.checkpoint_id, reason=str(error)) from error

    async def _record(self, kind: str, payload: dict[str, Any]) -> state.Session:
        async with self._lock:
            event = self._event(kind, payload)
            session = _folded(self.session_id, self.session, event)
            await self._append(event)
            self.session = session
            return session

    async def checkpoint(
        self, level: checkpoint_pb2.Level.ValueType, label: str, streams: Mapping[str, Any] | None = None
    ) -> Checkpoint | None:
        """Save the folded state (with what is being written, see Session.encode); None when checkpointd cannot take it
        now: the journal has everything anyway."""
        async with self._lock:
            session = self.session
        if session.sequence == 0:
            return None
        data = session.encode(streams)
        try:
            async with self._saving:
                # The session's name may come later than we do.
                self._saver = self._saver or Saver(self._bulk, self.session_id, CALL_SECONDS)
                save = self._saver.save
                info = await asyncio.to_thread(save, self.epoch, int(level), session.sequence, data, label)
        except SavingError as error:
            if error.status in ("FAILED_PRECONDITION", "ABORTED"):
                self.ended = SupersededError(session_id=self.session_id)
                raise self.ended from error
            self.unsaved = f"the last checkpoint was not saved: {error}"
            return None
        self.unsaved = ""
        self.checkpointed_sequence, self.session_saved = session.sequence, session
        return info

    def _recorded(self, recording: asyncio.Task[state.Session]) -> None:
        self._recording.discard(recording)
        if not recording.cancelled():
            recording.exception()  # whoever waits for it has it; `ended` says the same to everybody

    def _event(self, kind: str, payload: dict[str, Any]) -> checkpoint_pb2.Event:
        return checkpoint_pb2.Event(
            sequence=self.session.sequence + 1,
            kind=kind,
            payload=events.encode(payload),
            time_unix_nanos=time.time_ns(),
            trace_id=clients.trace_id.get(),
        )

    async def _append(self, event: checkpoint_pb2.Event) -> None:
        request = checkpoint_pb2.AppendRequest(session_id=self.session_id, epoch=self.epoch, events=[event])
        delay_seconds = 0.05
        while True:
            try:
                await self._appender.append(request)
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    self.ended = _refused(self.session_id, error)
                    raise self.ended from error
                self.trouble = f"waiting for checkpointd: {error.details()}"
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(1.0, delay_seconds * 2)
            else:
                self.trouble = ""
                return

    async def _replay(self, session_id: str) -> tuple[state.Session, list[str], str, int, str]:
        """(session, what was passed over, the checkpoint used, its last event, what was gone back to since or '')."""
        request = checkpoint_pb2.RecoverRequest(session_id=session_id)
        session, skipped, used, data = state.Session(), [], "", bytearray()
        held, went_back = 0, ""
        decoded = True
        async for reply in self._stub.Recover(request, timeout=600):
            part = reply.WhichOneof("part")
            if part == "header":
                skipped = list(reply.header.skipped)
                used, held = reply.header.checkpoint.checkpoint_id, reply.header.checkpoint.sequence
                decoded = not reply.header.HasField("checkpoint")
            elif part == "data":
                data += reply.data
            elif part == "events":
                if not decoded:
                    session, decoded = past.decoded(session_id, io.BytesIO(data)), True
                for event in reply.events.events:
                    session = await self._next(session_id, session, event)
                    if event.kind == RESTORED:
                        went_back = str(events.decode(event.payload)["checkpoint_id"])
        if not decoded:
            session = past.decoded(session_id, io.BytesIO(data))
        return session, skipped, used, held, went_back

    async def _next(self, session_id: str, session: state.Session, event: checkpoint_pb2.Event) -> state.Session:
        if event.kind != RESTORED:
            return _folded(session_id, session, event)
        said = events.decode(event.payload)
        info, then = await asyncio.to_thread(past.read, self._bulk, self._spool, said["checkpoint_id"], session_id)
        later_nanos = event.time_unix_nanos - info.created_unix_nanos
        return rewinding.restored(then, said["branch"], event.sequence, later_nanos)


def _folded(session_id: str, session: state.Session, event: checkpoint_pb2.Event) -> state.Session:
    try:
        return fold.fold(session, event.sequence, event.kind, events.decode(event.payload), event.time_unix_nanos)
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnreadableError(session_id=session_id, problem=f"bad event {event.sequence}: {error}") from error


def _refused(session_id: str, error: grpc.aio.AioRpcError) -> SelfwareError:
    """What a definite no to an append means: with one writer per session, that there is another one."""
    if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):
        return SupersededError(session_id=session_id)
    return StateUnreadableError(session_id=session_id, problem=error.details() or str(error.code()))
