"""The agent's memory: every event goes to checkpointd and is durable before the state moves.

Owns the session (its writer epoch, its sequence, its folded state). A lost connection means waiting and appending the
same bytes again, which checkpointd recognises; a newer writer means that this process must end.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from selfware_agent import fold, state
from selfware_agent.appending import Appender
from selfware_agent.errors import StateUnreadableError, SupersededError
from selfware_common import clients, events
from selfware_common.errors import SelfwareError
from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc
from selfware_common.state.saving import Checkpoint, Saver, SavingError

CALL_SECONDS = 30.0
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

    def __init__(self, channel: grpc.aio.Channel, bulk: Path, session_id: str) -> None:
        """``bulk``: checkpointd's socket for states."""
        self._stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        self._appender = Appender(self._stub, CALL_SECONDS)
        self._bulk = bulk
        self._saver: Saver | None = None
        self._saving = asyncio.Lock()
        self._lock = asyncio.Lock()
        self.session_id = session_id
        self.epoch = 0
        self.session = state.Session()
        self.trouble = ""  # why the last append had to wait, for the status line
        self.unsaved = ""  # why the last checkpoint could not be taken
        self.recovered_in_words = ""
        self.checkpointed_sequence = 0  # the last event that the newest checkpoint holds
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
        session, skipped, used, self.checkpointed_sequence = await self._replay()
        self.epoch = opened.epoch
        self.session = session
        words = f"recovered session {self.session_id} at event {session.sequence} from {used or 'its first event'}"
        self.recovered_in_words = ", ".join([words, *skipped])

    async def record(self, kind: str, **payload: Any) -> state.Session:
        """Make one event durable, then the state it leads to ours. Waits as long as checkpointd is away; raises
        SupersededError. What cannot be folded is never made durable: no later start could read the session."""
        async with self._lock:
            event = checkpoint_pb2.Event(
                sequence=self.session.sequence + 1,
                kind=kind,
                payload=events.encode(payload),
                time_unix_nanos=time.time_ns(),
                trace_id=clients.trace_id.get(),
            )
            session = _folded(self.session_id, self.session, event)
            await self._append(event)
            self.session = session
            return session

    async def checkpoint(self, level: checkpoint_pb2.Level.ValueType, label: str) -> Checkpoint | None:
        """Save the folded state; None when checkpointd cannot take it now (the journal has everything anyway)."""
        async with self._lock:
            session = self.session
        if session.sequence == 0:
            return None
        data = session.encode()
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
        self.checkpointed_sequence = session.sequence
        return info

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

    async def _replay(self) -> tuple[state.Session, list[str], str, int]:
        request = checkpoint_pb2.RecoverRequest(session_id=self.session_id)
        session, skipped, used, data = state.Session(), [], "", bytearray()
        held = 0
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
                    session, decoded = _decoded(self.session_id, bytes(data)), True
                for event in reply.events.events:
                    session = _folded(self.session_id, session, event)
        if not decoded:
            session = _decoded(self.session_id, bytes(data))
        return session, skipped, used, held


def _decoded(session_id: str, data: bytes) -> state.Session:
    try:
        return state.decode(data)
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnreadableError(session_id=session_id, problem=f"bad checkpoint state: {error}") from error


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
