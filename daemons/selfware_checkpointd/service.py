"""The gRPC face of checkpointd: translates between the wire and `memory.Memory`; decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from selfware_checkpointd.errors import UnusableStateError
from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.segment import Record
from selfware_checkpointd.thinning import Policy
from selfware_common import catalog, log
from selfware_common.rpc import checkpoint_pb2, checkpoint_pb2_grpc

LOG = logging.getLogger("selfware-checkpointd")
PIECE_BYTES = 1024 * 1024
BATCH_EVENTS = 256
ALL_BYTES = 1 << 62


class CheckpointService(checkpoint_pb2_grpc.CheckpointServicer):
    """One Memory behind the socket."""

    def __init__(self, memory: Memory, max_state_bytes: int, policy: Callable[[], Policy]) -> None:
        self._memory = memory
        self._policy = policy
        self._max_state_bytes = max_state_bytes
        self.appended_events = 0
        self.saved_checkpoints = 0
        self.changed = asyncio.Event()

    def saved_elsewhere(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """What a thread calls that saved a checkpoint."""

        def noted() -> None:
            self.saved_checkpoints += 1
            self.changed.set()

        return lambda: _soon(loop, noted)

    async def OpenSession(
        self, request: checkpoint_pb2.OpenSessionRequest, context: Any
    ) -> checkpoint_pb2.OpenSessionReply:
        opened = await self._memory.open_session(request.session_id, request.writer_id)
        self.changed.set()
        return checkpoint_pb2.OpenSessionReply(
            epoch=opened.epoch,
            last_sequence=opened.last_sequence,
            last_end=checkpoint_pb2.LastEnd.ValueType(opened.last_end),
        )

    async def CloseSession(
        self, request: checkpoint_pb2.CloseSessionRequest, context: Any
    ) -> checkpoint_pb2.CloseSessionReply:
        await self._memory.close_session(request.session_id, request.epoch)
        return checkpoint_pb2.CloseSessionReply()

    async def ListSessions(
        self, request: checkpoint_pb2.ListSessionsRequest, context: Any
    ) -> checkpoint_pb2.ListSessionsReply:
        summaries = await self._memory.summaries()
        return checkpoint_pb2.ListSessionsReply(
            sessions=[
                checkpoint_pb2.Session(
                    session_id=one.session_id,
                    last_sequence=one.last_sequence,
                    epoch=one.epoch,
                    created_unix_nanos=one.created_unix_nanos,
                    checkpoints=one.checkpoints,
                    journal_bytes=one.journal_bytes,
                    writer_id=one.writer_id,
                    opened_unix_nanos=one.opened_unix_nanos,
                )
                for one in summaries
            ]
        )

    async def Append(self, request: checkpoint_pb2.AppendRequest, context: Any) -> checkpoint_pb2.AppendReply:
        records = [_record(event, request.epoch) for event in request.events]
        last_sequence = await self._memory.append(request.session_id, request.epoch, records)
        self.appended_events += len(records)
        return checkpoint_pb2.AppendReply(last_sequence=last_sequence)

    async def AppendStream(
        self, request_iterator: AsyncIterator[checkpoint_pb2.AppendRequest], context: Any
    ) -> AsyncIterator[checkpoint_pb2.AppendReply]:
        async for request in request_iterator:
            yield await self.Append(request, context)

    async def ReadEvents(
        self, request: checkpoint_pb2.ReadEventsRequest, context: Any
    ) -> AsyncIterator[checkpoint_pb2.Event]:
        after = request.after_sequence
        while True:
            records = await asyncio.to_thread(self._memory.read, request.session_id, after)
            while batch := await asyncio.to_thread(_take, records):
                for record in batch:
                    yield _event(record)
                after = batch[-1].sequence
            if not request.follow:
                return
            await self._memory.wait_beyond(request.session_id, after)

    async def Save(
        self, request_iterator: AsyncIterator[checkpoint_pb2.SaveRequest], context: Any
    ) -> checkpoint_pb2.CheckpointInfo:
        header: checkpoint_pb2.SaveHeader | None = None
        state = bytearray()
        async for part in request_iterator:
            if part.WhichOneof("part") == "header":
                header = part.header
                continue
            state += part.data
            if len(state) > self._max_state_bytes:
                problem = f"a state of more than {self._max_state_bytes} bytes (resources.quotas.max_checkpoint_size)"
                raise UnusableStateError(problem=problem)
        if header is None or int(header.level) not in set(Level):
            raise UnusableStateError(problem="a save must begin with a header that names a level")
        if len(state) != header.state_bytes:
            problem = f"the stream broke off: {len(state)} of {header.state_bytes} bytes came"
            raise UnusableStateError(problem=problem)
        info = await self._memory.save(
            header.session_id,
            header.epoch,
            Level(header.level),
            header.sequence,
            state,
            header.label,
            bytes(header.state_hash),
        )
        self.saved_checkpoints += 1
        self.changed.set()
        return _info(info)

    async def Load(self, request: checkpoint_pb2.LoadRequest, context: Any) -> AsyncIterator[checkpoint_pb2.LoadReply]:
        """Verified as it goes, so that no state is in memory as a whole; what is damaged ends the stream."""
        reading = self._memory.store.reading(request.checkpoint_id)
        info, pieces = await asyncio.to_thread(reading.__enter__)
        try:
            yield checkpoint_pb2.LoadReply(info=_info(info))
            while data := await asyncio.to_thread(next, pieces, None):
                for start in range(0, len(data), PIECE_BYTES):
                    yield checkpoint_pb2.LoadReply(data=bytes(data[start : start + PIECE_BYTES]))
        finally:
            await asyncio.to_thread(reading.__exit__, None, None, None)

    async def List(self, request: checkpoint_pb2.ListRequest, context: Any) -> checkpoint_pb2.ListReply:
        found = self._memory.store.checkpoints(request.session_id)
        names = self._memory.store.names()
        return checkpoint_pb2.ListReply(checkpoints=[self._told(info, names.get(info.number, ())) for info in found])

    async def Latest(self, request: checkpoint_pb2.LatestRequest, context: Any) -> checkpoint_pb2.CheckpointInfo:
        return _info(self._memory.store.latest(request.session_id))

    async def Verify(self, request: checkpoint_pb2.VerifyRequest, context: Any) -> checkpoint_pb2.VerifyReply:
        verdicts = await self._memory.verify(request.checkpoint_id)
        for one in verdicts:
            if not one.intact and not one.unknown:
                extra = log.event(catalog.CHECKPOINT_DAMAGED, checkpoint_id=one.checkpoint_id)
                LOG.error("checkpoint %s is damaged: %s", one.checkpoint_id, one.problem, extra=extra)
        return checkpoint_pb2.VerifyReply(
            verdicts=[
                checkpoint_pb2.Verdict(
                    checkpoint_id=one.checkpoint_id, intact=one.intact, problem=one.problem, unknown=one.unknown
                )
                for one in verdicts
            ]
        )

    async def Maintain(self, request: checkpoint_pb2.MaintainRequest, context: Any) -> checkpoint_pb2.MaintainReply:
        return checkpoint_pb2.MaintainReply(sentence=await self._memory.maintain(self._policy(), ALL_BYTES))

    async def Recover(
        self, request: checkpoint_pb2.RecoverRequest, context: Any
    ) -> AsyncIterator[checkpoint_pb2.RecoverReply]:
        found = await self._memory.recover(request.session_id, request.checkpoint_id)
        header = checkpoint_pb2.RecoverHeader(skipped=found.skipped, last_sequence=found.last_sequence)
        if found.checkpoint is not None:
            header.checkpoint.CopyFrom(_info(found.checkpoint))
        yield checkpoint_pb2.RecoverReply(header=header)
        for piece in _pieces(found.state):
            yield checkpoint_pb2.RecoverReply(data=piece)
        for start in range(0, len(found.events), BATCH_EVENTS):
            yield _events(found.events[start : start + BATCH_EVENTS])

    def _told(self, info: CheckpointInfo, tags: Iterable[str]) -> checkpoint_pb2.CheckpointInfo:
        """With where it lies."""
        told = _info(info)
        told.tags.extend(tags)
        told.tier, told.cold_bytes = self._memory.store.tiers.tier_of(info.number)
        if damage := self._memory.store.scrub.damage().get(info.number):
            told.damage = damage.sentence
        return told


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody has to know any more
        loop.call_soon_threadsafe(call)


def _record(event: checkpoint_pb2.Event, epoch: int) -> Record:
    return Record(epoch, event.sequence, event.time_unix_nanos, event.kind, event.payload, event.trace_id)


def _event(record: Record) -> checkpoint_pb2.Event:
    return checkpoint_pb2.Event(
        sequence=record.sequence,
        kind=record.kind,
        payload=record.payload,
        time_unix_nanos=record.time_unix_nanos,
        trace_id=record.trace_id,
        epoch=record.epoch,
    )


def _events(records: Iterable[Record]) -> checkpoint_pb2.RecoverReply:
    """Filled in place: a message that is put into another one is copied."""
    reply = checkpoint_pb2.RecoverReply()
    add = reply.events.events.add
    for epoch, sequence, time_unix_nanos, kind, payload, trace_id in records:
        add(
            sequence=sequence,
            kind=kind,
            payload=payload,
            time_unix_nanos=time_unix_nanos,
            trace_id=trace_id,
            epoch=epoch,
        )
    return reply


def _info(info: CheckpointInfo) -> checkpoint_pb2.CheckpointInfo:
    return checkpoint_pb2.CheckpointInfo(
        checkpoint_id=info.checkpoint_id,
        session_id=info.session_id,
        level=checkpoint_pb2.Level.ValueType(info.level),
        sequence=info.sequence,
        created_unix_nanos=info.created_unix_nanos,
        state_bytes=info.state_bytes,
        stored_bytes=info.stored_bytes,
        state_hash=info.state_hash,
        label=info.label,
    )


def _take(records: Iterator[Record]) -> list[Record]:
    return list(islice(records, BATCH_EVENTS))


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
