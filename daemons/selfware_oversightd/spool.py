"""A system checkpoint on its way to checkpointd or back: a file of no name, and the calls that fill and empty it.

Whole states travel as open files, so neither they nor the trees in them ever lie in our memory. The calls block: each
runs in a thread with a descriptor of its own, so that whoever stops waiting for one may close the file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import TypeVar

import grpc

from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.paths import Paths
from selfware_common.sockets import NO_SPACE
from selfware_common.state import saving
from selfware_common.state.saving import Checkpoint, SavingError
from selfware_common.state.sections import Section
from selfware_common.state.wire import BULK_SOCKET
from selfware_common.trees.errors import TreeDamagedError
from selfware_common.trees.stream import TRAILER_BYTES, claimed_hash, decode_trailer

RESERVE_BYTES = 64 * 1024 * 1024  # of its disk is never filled: the ledger lies there
SYSTEM = 4  # protos/checkpoint.proto, LEVEL_SYSTEM

Answer = TypeVar("Answer")


class CheckpointRefusedError(SelfwareError):
    """{sentence}"""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 1


class CheckpointInvalidError(CheckpointRefusedError):
    """{sentence}"""

    status = grpc.StatusCode.INVALID_ARGUMENT


class CheckpointMissingError(CheckpointRefusedError):
    """{sentence}"""

    status = grpc.StatusCode.NOT_FOUND


class CheckpointDamagedError(CheckpointRefusedError):
    """{sentence}"""

    status = grpc.StatusCode.DATA_LOSS


class CheckpointNoRoomError(CheckpointRefusedError):
    """{sentence}"""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class CheckpointdAwayError(CheckpointRefusedError):
    """{sentence}"""

    status = grpc.StatusCode.UNAVAILABLE


_ERRORS = {
    kind.status.name: kind
    for kind in (
        CheckpointInvalidError,
        CheckpointMissingError,
        CheckpointDamagedError,
        CheckpointNoRoomError,
        CheckpointdAwayError,
    )
}


class Spool:
    """Owns one file of no name in our state directory."""

    def __init__(self, where: Paths) -> None:
        """Raises DiskFullError if the disk is nearly full."""
        self._bulk = where.run / "checkpointd" / BULK_SOCKET
        self.place = where.state_of("oversightd")
        room = os.statvfs(self.place)
        if room.f_bavail * room.f_frsize < RESERVE_BYTES:
            raise DiskFullError(what="a system checkpoint", path=self.place)
        try:
            self.file = TemporaryFile(dir=self.place, buffering=0)  # noqa: SIM115 - opened() closes it
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFullError(what="a system checkpoint", path=self.place) from error
            raise

    def stream_hash(self, section: Section) -> str:
        """The hash that the tree in this section claims; whoever reads the tree checks it."""
        end = section.offset + section.length
        trailer = os.pread(self.file.fileno(), min(TRAILER_BYTES, section.length), end - TRAILER_BYTES)
        if section.length < TRAILER_BYTES:
            raise TreeDamagedError(problem="it is too short")
        decode_trailer(trailer)
        return claimed_hash(trailer).hex()

    def reading(self) -> int:
        """A descriptor that can read it and no more; the caller's to close."""
        return os.open(f"/proc/self/fd/{self.file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)

    async def fetch(self, checkpoint_id: str) -> Checkpoint:
        """Fill it, from its start, with a checkpoint's state."""
        return await self._call(lambda file: saving.get_file(self._bulk, checkpoint_id, file))

    async def save(self, session_id: str, epoch: int, sequence: int, label: str) -> Checkpoint:
        """Make what it holds a system checkpoint; durable on return."""
        return await self._call(
            lambda file: saving.put_file(self._bulk, session_id, epoch, SYSTEM, sequence, file, label)
        )

    async def _call(self, call: Callable[[int], Answer]) -> Answer:
        own = os.dup(self.file.fileno())

        def run() -> Answer:
            try:
                return call(own)
            finally:
                os.close(own)

        try:
            return await asyncio.to_thread(run)
        except SavingError as error:
            raise _ERRORS.get(error.status, CheckpointRefusedError)(sentence=str(error)) from error


@asynccontextmanager
async def opened(where: Paths) -> AsyncIterator[Spool]:
    """A spool, and its blocks given back at the end: in a thread, a large file takes its time."""
    spool = Spool(where)
    try:
        yield spool
    finally:
        await asyncio.shield(asyncio.to_thread(spool.file.close))
