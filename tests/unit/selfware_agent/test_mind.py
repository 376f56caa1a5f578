"""What comes from inferenced as an answer, however it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import grpc.aio

from selfware_agent import mind
from selfware_agent.state import Goal, Question, Task, Turn
from selfware_common.rpc import inference_pb2

TASK = Task(Goal("t", "goal", "/w"))
QUESTION = Question("req-t-1", 1, 0.0)


class Call:
    """One stream, and whether it was hung up."""

    def __init__(self, replies: Iterator[inference_pb2.GenerateReply]) -> None:
        self._replies = replies
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[inference_pb2.GenerateReply]:
        for reply in self._replies:
            yield reply

    def cancel(self) -> None:
        self.cancelled = True


class Inferenced:
    """Answers every Generate with the same stream."""

    def __init__(self, replies: Iterator[inference_pb2.GenerateReply]) -> None:
        self.call = Call(replies)

    def unary_stream(self, *_names: object, **_options: object) -> Any:
        return lambda _request: self.call

    def unary_unary(self, *_names: object, **_options: object) -> Any:
        return None


def endless() -> Iterator[inference_pb2.GenerateReply]:
    while True:
        yield inference_pb2.GenerateReply(delta=inference_pb2.Delta(text="x" * 100_000, tokens=10))


def test_a_reply_without_end_is_cut_and_hung_up() -> None:
    inferenced = Inferenced(endless())
    one = mind.Mind(cast(grpc.aio.Channel, inferenced))
    turns = [Turn("user", "go")]
    answer = asyncio.run(asyncio.wait_for(one.ask(TASK, QUESTION, turns, "", 10, lambda _: None), 20))
    assert isinstance(answer, mind.Answer)
    assert (len(answer.text), answer.finish_reason) == (mind.MAX_REPLY_CHARS, "length")
    assert inferenced.call.cancelled
