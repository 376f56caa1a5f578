"""The agent's stream of events to a real checkpointd: whatever happens to it, an append is as one call would be."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from selfware_agent.appending import Appender
from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.process.test_checkpointd import Server, home

__all__ = ["home"]


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    one = Server(home)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.end()


@asynccontextmanager
async def appending(home: Path, timeout_seconds: float = 20) -> AsyncIterator[Appender]:
    channel = clients.channel(home / "run/checkpointd/api.sock")
    try:
        yield Appender(checkpoint_pb2_grpc.CheckpointStub(channel), timeout_seconds)
    finally:
        await channel.close()


def awaited(test: Callable[[Path, Server], Coroutine[None, None, None]]) -> Callable[[Path, Server], None]:
    """A test that is a coroutine function."""

    @functools.wraps(test)
    def run(home: Path, server: Server) -> None:
        asyncio.run(test(home, server))

    return run


def event(epoch: int, sequence: int, payload: bytes = b"x") -> pb.AppendRequest:
    events = [pb.Event(sequence=sequence, kind="Test", payload=payload)]
    return pb.AppendRequest(session_id="s", epoch=epoch, events=events)


def recorded(server: Server) -> list[int]:
    return [event.sequence for event in server.recover()[2]]


@awaited
async def test_a_refusal_is_the_one_of_a_call_and_the_next_append_goes_on(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    async with appending(home) as appender:
        await appender.append(event(epoch, 1))
        for wrong in (event(epoch, 5), event(epoch, 1, b"other"), event(epoch - 1, 2)):
            with pytest.raises(grpc.RpcError) as by_call:
                server.stub.Append(wrong, timeout=20)
            with pytest.raises(grpc.aio.AioRpcError) as by_stream:
                await appender.append(wrong)
            assert (by_stream.value.code(), by_stream.value.details()) == (
                by_call.value.code(),  # type: ignore[attr-defined]
                by_call.value.details(),  # type: ignore[attr-defined]
            )
            await appender.append(event(epoch, 1))
        await appender.append(event(epoch, 2))
    assert recorded(server) == [1, 2]


@awaited
async def test_a_stream_that_broke_while_nobody_used_it_is_no_error(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    async with appending(home) as appender:
        for sequence in range(1, 4):
            await appender.append(event(epoch, sequence))
            await asyncio.to_thread(server.end)
            server = await asyncio.to_thread(Server, home)
            await asyncio.to_thread(server.open, "other")  # now it is there
        await appender.append(event(epoch, 4))
    assert recorded(server) == [1, 2, 3, 4]
    server.end()


@awaited
async def test_an_append_that_was_given_up_does_not_answer_for_the_next_one(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    async with appending(home) as appender:
        for sequence in range(1, 60, 2):
            given_up = asyncio.create_task(appender.append(event(epoch, sequence)))
            for _ in range(sequence % 7):
                await asyncio.sleep(0)
            given_up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await given_up
            await appender.append(event(epoch, sequence))  # it may be there already, or not
            await appender.append(event(epoch, sequence + 1))
            assert recorded(server)[-1] == sequence + 1
    assert recorded(server) == list(range(1, 61))


@awaited
async def test_a_checkpointd_that_hangs_ends_the_wait(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    async with appending(home, timeout_seconds=0.5) as appender:
        await appender.append(event(epoch, 1))
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await appender.append(event(epoch, 2))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.process.send_signal(signal.SIGCONT)
        await appender.append(event(epoch, 2))
    assert recorded(server) == [1, 2]
