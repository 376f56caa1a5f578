"""The saver's line to checkpointd: patient, repeatable calls; no notion of what the events mean.

checkpointd may be killed and restarted at any moment: a call that found nobody is made again with the same bytes, and
checkpointd recognises them. Blocking and safe for threads. Owns the channel.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc

from selfware_common import clients
from selfware_common.errors import UnreachableError
from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc
from selfware_langgraph.errors import LostPlaceError, NotSavedError, ThreadUnreadableError

CALL_SECONDS = 30.0
READ_SECONDS = 600.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
# A restarting or overloaded checkpointd, a full disk: all pass.
PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
# To an append: another writer opened the session, or wrote to it.
LOST_PLACE = frozenset({grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS})
T = TypeVar("T")


class Journal:
    """Sessions of one checkpointd."""

    def __init__(self, socket: Path, patience_seconds: float) -> None:
        """Makes no call and needs nobody there yet."""
        self._socket = socket
        self.patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._writer = f"selfware-langgraph pid {os.getpid()}"

    def sessions(self) -> list[str]:
        """Every session's id. Raises UnreachableError."""
        request = checkpoint_pb2.ListSessionsRequest()
        try:
            reply = self._patiently("the list of threads", lambda stub, left: stub.ListSessions(request, timeout=left))
        except grpc.RpcError as error:
            raise self._unreachable(error.details() or "it refused the list of sessions") from error
        return [one.session_id for one in reply.sessions]

    def open(self, session_id: str) -> tuple[int, int]:
        """Become the writer: epoch and last sequence. Raises UnreachableError, NotSavedError."""
        request = checkpoint_pb2.OpenSessionRequest(session_id=session_id, writer_id=self._writer)
        try:
            reply = self._patiently(session_id, lambda stub, left: stub.OpenSession(request, timeout=left))
        except grpc.RpcError as error:
            raise NotSavedError(thread=session_id, reason=error.details()) from error
        return reply.epoch, reply.last_sequence

    def append(self, session_id: str, epoch: int, events: Sequence[checkpoint_pb2.Event]) -> None:
        """Make events durable, all or none. Raises UnreachableError (then it is not known whether they are),
        LostPlaceError when another process became the writer, NotSavedError."""
        request = checkpoint_pb2.AppendRequest(session_id=session_id, epoch=epoch, events=events)
        if request.ByteSize() > clients.MAX_MESSAGE_BYTES - 65536:
            reason = f"a step of {request.ByteSize()} bytes; the limit is {clients.MAX_MESSAGE_BYTES}."
            raise NotSavedError(thread=session_id, reason=reason)
        try:
            self._patiently(session_id, lambda stub, left: stub.Append(request, timeout=left))
        except grpc.RpcError as error:
            if error.code() in LOST_PLACE or error.code() is grpc.StatusCode.NOT_FOUND:
                raise LostPlaceError(session=session_id, reason=error.details()) from error
            raise NotSavedError(thread=session_id, reason=error.details()) from error

    def read(self, session_id: str, after: int) -> list[checkpoint_pb2.Event] | None:
        """Events after a sequence, in order; None if there is no such session.
        Raises UnreachableError, ThreadUnreadableError."""
        found: list[checkpoint_pb2.Event] = []

        def rest(stub: checkpoint_pb2_grpc.CheckpointStub, _: float) -> None:
            last = found[-1].sequence if found else after  # a stream that broke off goes on where it was
            request = checkpoint_pb2.ReadEventsRequest(session_id=session_id, after_sequence=last)
            found.extend(stub.ReadEvents(request, timeout=READ_SECONDS))

        try:
            self._patiently(session_id, rest)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise ThreadUnreadableError(thread=session_id, problem=error.details()) from error
        return found

    def close(self) -> None:
        """Give the channel back; a later call makes a new one."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def _patiently(self, what: str, call: Callable[[checkpoint_pb2_grpc.CheckpointStub, float], T]) -> T:
        """Call until somebody answers. Lets a definite no through as grpc.RpcError."""
        deadline = time.monotonic() + self.patience_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return call(self._stub(), CALL_SECONDS)
            except grpc.RpcError as error:
                if error.code() not in PASSING:
                    raise
                if time.monotonic() + pause > deadline:
                    reason = f"{error.details() or error.code().name}, for {self.patience_seconds:g} s ({what})"
                    raise self._unreachable(reason) from error
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(daemon="selfware-checkpointd", path=self._socket, reason=reason)

    def _stub(self) -> checkpoint_pb2_grpc.CheckpointStub:
        with self._lock:
            if self._channel is None:
                self._channel = clients.sync_channel(self._socket)
            return checkpoint_pb2_grpc.CheckpointStub(self._channel)
