"""gRPC in, the queue and one engine, gRPC out: what selfware-inferenced offers on its socket.

Owns the wiring of one endpoint: its engine, its queue, its watch. The cycle looks after the engine's health; the
requests move by themselves in the handlers of their calls, and end with them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, assert_never

import grpc.aio

from selfware_common import log
from selfware_common.daemon import Daemon
from selfware_common.errors import SelfwareError
from selfware_common.health import Check, Severity
from selfware_common.rpc import inference_pb2 as pb
from selfware_common.rpc import inference_pb2_grpc
from selfware_common.rpcserver import Register
from selfware_inferenced import config, requests
from selfware_inferenced.admission import Admission, Ticket
from selfware_inferenced.engines import Health, Text
from selfware_inferenced.engines.openai_http import OpenAiHttpEngine
from selfware_inferenced.generation import Event, Finished, Generation, Queued, Restarted, Started
from selfware_inferenced.watch import EngineWatch

CYCLE_SECONDS = 2.0


@dataclass
class Totals:
    """What was done since the start."""

    finished: int = 0
    failed: int = 0
    restarts: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0  # of the newest finished request


class Inferenced(Daemon):
    """selfware-inferenced."""

    name = "inferenced"
    idea = "Streams text from a model: one queue with priorities in front of engines that may come and go."

    async def open(self) -> None:
        self.endpoint = config.endpoint(self.settings, self.paths)
        self.admission = Admission(config.limits(self.settings, self.endpoint))
        self.watch = EngineWatch(OpenAiHttpEngine(self.endpoint), self.admission)
        self.totals = Totals()
        self._checked_at: float | None = None
        self._letting_go = asyncio.create_task(self._let_go())

    async def close(self) -> None:
        self._letting_go.cancel()
        await self.watch.close()

    async def reloaded(self) -> None:
        endpoint = config.endpoint(self.settings, self.paths)
        self.admission.relimit(config.limits(self.settings, endpoint))
        if endpoint != self.endpoint:
            self.endpoint = endpoint
            await self.watch.replace(OpenAiHttpEngine(endpoint))

    def services(self) -> tuple[list[str], list[Register]]:
        return ["selfware.inference.v1.Inference"], [self._register]

    async def cycle(self) -> str:
        if self._checked_at is not None:
            await self.wait_or_stop(CYCLE_SECONDS, self.watch.changed)
        now = asyncio.get_running_loop().time()
        due = self._checked_at is None or now - self._checked_at >= self.admission.limits.check_seconds
        if due and not self.stopping.is_set():
            self._checked_at = now
            await self.watch.check()
        self.watch.changed.clear()
        admission = self.admission
        return sentence(
            self.endpoint.model, self.watch.health, len(admission.running), len(admission.waiting), self.speed()
        )

    def checks(self) -> list[Check]:
        return [Check("engine", self._look_at_engine), Check("streams", self._look_at_streams, Severity.WARNING)]

    def facts(self) -> dict[str, str]:
        return {
            "model": self.endpoint.model,
            "engine": self.endpoint.address,
            "ready": "yes" if self.watch.health.ready else "no",
            "running": str(len(self.admission.running)),
            "waiting": str(len(self.admission.waiting)),
            "finished": str(self.totals.finished),
            "failed": str(self.totals.failed),
            "restarts": str(self.totals.restarts),
            "tokens": str(self.totals.tokens),
            "tokens_per_second": f"{self.speed():.1f}",
        }

    async def _look_at_engine(self) -> str:
        """What the cycle found out; the engine's own unit restarts it."""
        return "" if self.watch.health.ready else self.watch.health.sentence

    async def _look_at_streams(self) -> str:
        """An engine that answers questions about its health may still produce nothing."""
        losses = self.watch.losses
        return f"the last {losses} generations came to nothing: {self.watch.last_loss}" if losses else ""

    def speed(self) -> float:
        """Tokens per second of all that runs; of the newest finished request while nothing does."""
        now = asyncio.get_running_loop().time()
        running = [one for one in self.admission.running if one.tokens]
        return sum(one.tokens / (now - one.since) for one in running) or self.totals.tokens_per_second

    async def _let_go(self) -> None:
        """A stop must not wait for long generations: callers ask again, and a restart stays short."""
        await self.stopping.wait()
        self.admission.stop()

    def _register(self, server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServicer_to_server(InferenceService(self), server)  # type: ignore[no-untyped-call,unused-ignore]


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """selfware.inference.v1.Inference."""

    def __init__(self, daemon: Inferenced) -> None:
        self._daemon = daemon

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateReply, None]:
        daemon = self._daemon
        prompt = requests.prompt_of(request, daemon.endpoint)
        request_id = request.request_id or f"unnamed-{secrets.token_hex(4)}"
        ticket = Ticket(request_id, requests.priority_of(request), request.task_id)
        generation = Generation(prompt, ticket, request.deadline_seconds, daemon.admission, daemon.watch)
        try:
            async with aclosing(generation.events()) as events:
                async for event in events:
                    self._note(event, request_id, request.task_id)
                    yield reply_of(event)
        except SelfwareError as error:
            daemon.totals.failed += 1
            daemon.log.warning("%s", error, extra=log.fields(request_id=request_id, task_id=request.task_id))
            raise

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsReply:
        daemon = self._daemon
        health = daemon.watch.health
        model = pb.Model(
            name=daemon.endpoint.model,
            engine=daemon.endpoint.provider,
            ready=health.ready,
            state=health.sentence,
            context_tokens=health.context_tokens or daemon.endpoint.context_tokens,
        )
        return pb.ListModelsReply(models=[model])

    async def Queue(self, request: pb.QueueRequest, context: Any) -> pb.QueueReply:
        daemon = self._daemon
        now = asyncio.get_running_loop().time()
        return pb.QueueReply(
            waiting=[_entry(ticket, now) for ticket in daemon.admission.waiting],
            running=[_entry(ticket, now) for ticket in daemon.admission.running],
            finished=daemon.totals.finished,
            tokens_per_second=daemon.totals.tokens_per_second,
        )

    def _note(self, event: Event, request_id: str, task_id: str) -> None:
        totals = self._daemon.totals
        if isinstance(event, Finished):
            totals.finished += 1
            totals.tokens += event.completion_tokens
            totals.tokens_per_second = event.tokens_per_second
        elif isinstance(event, Restarted):
            totals.restarts += 1
            fields = log.fields(request_id=request_id, task_id=task_id)
            self._daemon.log.warning("request %s began again: %s", request_id, event.reason, extra=fields)


def sentence(model: str, health: Health, running: int, waiting: int, tokens_per_second: float) -> str:
    """What the daemon says of itself. Pure."""
    if not health.ready:
        if waiting:
            return f"{health.sentence}; {waiting} request{'s wait' if waiting > 1 else ' waits'} for it"
        return health.sentence
    speed = f", {tokens_per_second:.1f} tokens/s" if tokens_per_second else ""
    return f"{model} ready: {running} running, {waiting} waiting{speed}"


def reply_of(event: Event) -> pb.GenerateReply:
    """One event as it goes over the wire. Pure."""
    match event:
        case Text():
            return pb.GenerateReply(delta=pb.Delta(text=event.text, tokens=event.tokens))
        case Queued():
            return pb.GenerateReply(queued=pb.Queued(position=event.position, reason=event.reason))
        case Started():
            return pb.GenerateReply(
                started=pb.Started(model=event.model, engine=event.engine, queued_seconds=event.queued_seconds)
            )
        case Restarted():
            return pb.GenerateReply(restarted=pb.Restarted(reason=event.reason))
        case Finished():
            finished = pb.Finished(
                finish_reason=event.finish_reason,
                prompt_tokens=event.prompt_tokens,
                completion_tokens=event.completion_tokens,
                seconds=event.seconds,
                tokens_per_second=event.tokens_per_second,
                restarts=event.restarts,
            )
            return pb.GenerateReply(finished=finished)
        case _:
            assert_never(event)


def _entry(ticket: Ticket, now: float) -> pb.QueueEntry:
    return pb.QueueEntry(
        request_id=ticket.request_id,
        priority=pb.Priority.ValueType(int(ticket.priority)),
        task_id=ticket.task_id,
        seconds=now - ticket.since,
        tokens=ticket.tokens,
    )
