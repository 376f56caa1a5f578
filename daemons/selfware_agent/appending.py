"""One stream to checkpointd's journal that stays open: half the time of a call for each event, and otherwise the same.

Every event is answered before the next one is sent. Whatever goes wrong ends the stream, and is raised as the call
would raise it; the next event opens another one. A stream that broke while nobody used it is no error. Owns the stream;
one event at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc

AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN})


class Appender:
    """Sends events of one session."""

    def __init__(self, stub: checkpoint_pb2_grpc.CheckpointStub, timeout_seconds: float) -> None:
        self._stub: Any = stub  # of an asyncio channel, which its type does not say
        self._timeout_seconds = timeout_seconds
        self._stream: Any = None

    async def append(self, request: checkpoint_pb2.AppendRequest) -> None:
        """Durable on return; raises grpc.aio.AioRpcError."""
        was_open = self._stream is not None
        try:
            await self._append(request)
        except grpc.aio.AioRpcError as error:
            if not was_open or error.code() not in AWAY:
                raise
            await self._append(request)

    async def _append(self, request: checkpoint_pb2.AppendRequest) -> None:
        stream = self._stream = self._stream or self._stub.AppendStream()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await stream.write(request)
                reply = await stream.read()
                if reply is grpc.aio.EOF:
                    raise await _ended(stream)
        except BaseException as error:
            self._stream = None  # else the next event would read the answer to this one
            stream.cancel()
            if isinstance(error, TimeoutError):
                raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from error
            if isinstance(error, asyncio.InvalidStateError):  # it had ended before we wrote
                raise await _ended(stream) from error
            raise


async def _ended(stream: Any) -> grpc.aio.AioRpcError:
    code, details = await stream.code(), await stream.details()
    if code is grpc.StatusCode.OK:
        return _error(grpc.StatusCode.UNAVAILABLE, "checkpointd ended the stream")
    return _error(code, details)


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
