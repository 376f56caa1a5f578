"""Asks inferenced for text and reports progress token by token.

A lost connection or a restarting inferenced is waited out and the same request (same id, same seed) is put again. Only
a refusal of the request itself (too long, bad schema) comes back as an answer: it is the task's problem, not ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from selfware_agent.state import Question, Task, Turn
from selfware_common.rpc import inference_pb2, inference_pb2_grpc

REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


MAX_REPLY_CHARS = 4_000_000  # an engine that minds no token limit must not fill memory and journal


@dataclass(frozen=True)
class Answer:
    """A complete reply, or with the finish reason "length" the beginning of one."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Refusal:
    """The engine will not answer this request, however often it is asked."""

    why: str


@dataclass(frozen=True)
class Stream:
    """How far the reply has come."""

    sentence: str
    tokens: int = 0
    tokens_per_second: float = 0.0
    waits: bool = False
    """No engine works on it yet: that may take as long as it takes."""


@dataclass
class Partial:
    """A reply that is still being written: how far it is, and what it says so far."""

    tokens: int = 0
    pieces: list[str] = field(default_factory=list)


class Mind:
    """A client of selfware-inferenced."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceStub(channel)
        self.session_id = ""  # set once the session is known
        self.streams: dict[str, Partial] = {}  # by request

    async def ask(
        self,
        task: Task,
        question: Question,
        messages: Sequence[Turn],
        json_schema: str,
        max_tokens: int,
        on_progress: Callable[[Stream], None],
    ) -> Answer | Refusal:
        """Wait for the whole reply, for ever if need be; cancelling aborts it in the engine."""
        request = inference_pb2.GenerateRequest(
            request_id=question.request_id,
            messages=[inference_pb2.Message(role=turn.role, content=turn.content) for turn in messages],
            max_tokens=max_tokens,
            temperature=question.temperature,
            seed=question.seed,
            json_schema=json_schema,
            priority=inference_pb2.Priority.ValueType(task.goal.priority),
            session_id=self.session_id,
            task_id=task.task_id,
        )
        try:
            return await self._until_answered(request, on_progress)
        finally:
            self.streams.pop(request.request_id, None)

    async def _until_answered(
        self, request: inference_pb2.GenerateRequest, on_progress: Callable[[Stream], None]
    ) -> Answer | Refusal:
        delay_seconds = 0.05
        while True:
            try:
                answer = await self._once(request, on_progress)
            except grpc.aio.AioRpcError as error:
                if error.code() in REFUSALS:
                    return Refusal(error.details() or str(error.code()))
                on_progress(Stream(f"waiting for the model: {error.details()}", waits=True))
            else:
                if answer is not None:
                    return answer
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(1.0, delay_seconds * 2)

    async def _once(
        self, request: inference_pb2.GenerateRequest, on_progress: Callable[[Stream], None]
    ) -> Answer | None:
        """One stream to its end; None if it ended without a finish."""
        loop = asyncio.get_running_loop()
        stream = self.streams[request.request_id] = Partial()
        chars, began = 0, loop.time()
        call = self._stub.Generate(request)
        async for reply in call:
            match reply.WhichOneof("event"):
                case "queued":
                    on_progress(Stream(f"waiting for the model: {reply.queued.reason or 'queued'}", waits=True))
                case "started":
                    began = loop.time()
                    on_progress(Stream("the model reads the question"))
                case "delta":
                    stream.pieces.append(reply.delta.text)
                    chars += len(reply.delta.text)
                    stream.tokens += reply.delta.tokens or 1
                    if chars > MAX_REPLY_CHARS:
                        call.cancel()
                        return Answer("".join(stream.pieces)[:MAX_REPLY_CHARS], "length", 0, stream.tokens)
                    rate = stream.tokens / max(loop.time() - began, 1e-3)
                    on_progress(Stream("the model writes", stream.tokens, rate))
                case "restarted":
                    stream = self.streams[request.request_id] = Partial()
                    chars, began = 0, loop.time()
                    on_progress(Stream(f"the model starts again: {reply.restarted.reason}", waits=True))
                case "finished":
                    done = reply.finished
                    return Answer(
                        "".join(stream.pieces), done.finish_reason, done.prompt_tokens, done.completion_tokens
                    )
        return None
