"""Concurrent writers in front of a real checkpointd, each waiting for its own event to be durable before the next.

Three ways to the same answer: a call for every event, a stream for every session, and one session that all writers
share, whose events travel together while the request before them is on its way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.bench.served import Checkpointd

KIND = "ActionFinished"
Stub = checkpoint_pb2_grpc.CheckpointStub
Rate = Callable[[Stub, Checkpointd, int, float, bytes], Awaitable[int]]


def event(sequence: int, payload: bytes) -> pb.Event:
    """As the agent writes it."""
    return pb.Event(sequence=sequence, kind=KIND, payload=payload, time_unix_nanos=time.time_ns())


async def per_second(base: Path, way: Rate, writers: int, seconds: float, payload: bytes) -> tuple[float, int]:
    """Durable events a second in a daemon of its own, and how many there were."""
    with Checkpointd(base) as daemon:
        channel = clients.channel(daemon.socket)
        stub = Stub(channel)
        begin = time.perf_counter()
        done = await way(stub, daemon, writers, seconds, payload)
        spent = time.perf_counter() - begin
        await channel.close()
    return done / spent, done


async def calls(stub: Stub, daemon: Checkpointd, writers: int, seconds: float, payload: bytes) -> int:
    """A session for each writer, a unary call for each event."""
    opened = [(f"call-{number}", daemon.open(f"call-{number}").epoch) for number in range(writers)]
    end = time.perf_counter() + seconds

    async def write(session_id: str, epoch: int) -> int:
        done = 0
        while time.perf_counter() < end:
            events = [event(done + 1, payload)]
            request = pb.AppendRequest(session_id=session_id, epoch=epoch, events=events)
            done = (await stub.Append(request, timeout=30)).last_sequence
        return done

    return sum(await asyncio.gather(*(write(*one) for one in opened)))


async def streams(stub: Stub, daemon: Checkpointd, writers: int, seconds: float, payload: bytes) -> int:
    """A session and a stream for each writer."""
    opened = [(f"stream-{number}", daemon.open(f"stream-{number}").epoch) for number in range(writers)]
    end = time.perf_counter() + seconds

    async def write(session_id: str, epoch: int) -> int:
        done = 0
        stream = stub.AppendStream()
        while time.perf_counter() < end:
            events = [event(done + 1, payload)]
            await stream.write(pb.AppendRequest(session_id=session_id, epoch=epoch, events=events))
            done = (await stream.read()).last_sequence
        await stream.done_writing()
        return done

    return sum(await asyncio.gather(*(write(*one) for one in opened)))


async def shared(stub: Stub, daemon: Checkpointd, writers: int, seconds: float, payload: bytes) -> int:
    """One session and one stream for all: what comes while a request is on its way goes with the next one."""
    epoch = daemon.open("shared").epoch
    end = time.perf_counter() + seconds
    waiting: list[tuple[pb.Event, asyncio.Future[None]]] = []
    came = asyncio.Event()
    last = 0

    async def write() -> None:
        nonlocal last
        while time.perf_counter() < end:
            last += 1
            durable = asyncio.get_running_loop().create_future()
            waiting.append((event(last, payload), durable))
            came.set()
            await durable

    async def carry() -> None:
        stream = stub.AppendStream()
        while True:
            await came.wait()
            came.clear()
            taken, waiting[:] = waiting[:], []
            await stream.write(pb.AppendRequest(session_id="shared", epoch=epoch, events=[one for one, _ in taken]))
            reply = await stream.read()
            assert reply.last_sequence == taken[-1][0].sequence
            for _, durable in taken:
                durable.set_result(None)

    carrier = asyncio.create_task(carry())
    await asyncio.gather(*(write() for _ in range(writers)))
    carrier.cancel()
    await asyncio.gather(carrier, return_exceptions=True)
    return last
