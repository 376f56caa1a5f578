"""Wires the agent: channels to its four neighbours, its memory, its foreman, its service."""

from __future__ import annotations

import asyncio
import sys
import time

import grpc
import grpc.aio

from selfware_agent import config
from selfware_agent.door import Door
from selfware_agent.errors import CheckpointRefusedError
from selfware_agent.foreman import Foreman
from selfware_agent.hands import Hands
from selfware_agent.keeping import Keeper
from selfware_agent.memory import Memory
from selfware_agent.mind import Mind
from selfware_agent.service import AgentService
from selfware_agent.watch import Watch
from selfware_agent.worker import Gate
from selfware_common import catalog, clients, daemon, log
from selfware_common.health import Check, Severity
from selfware_common.rpc import agent_pb2_grpc, checkpoint_pb2, checkpoint_pb2_grpc
from selfware_common.rpcserver import Register
from selfware_common.state.wire import BULK_SOCKET

ROUND_SECONDS = 5.0


class AgentDaemon(daemon.Daemon):
    """The loop: recover, then work on tasks until told to stop."""

    name = "agent"
    idea = "Works on goals: asks the model, proposes actions, remembers everything."

    async def open(self) -> None:
        self._channels = {
            name: clients.channel(self.paths.socket_of(name, "agent.sock" if name == "oversightd" else "api.sock"))
            for name in ("checkpointd", "inferenced", "oversightd", "resourced")
        }
        wanted = self.settings.system.session_id
        session_id = wanted if wanted != "auto" else ""
        bulk = self.paths.socket_of("checkpointd", BULK_SOCKET)
        self._memory = Memory(self._channels["checkpointd"], bulk, self.paths.state_of(self.name), session_id)
        self._mind = Mind(self._channels["inferenced"])
        self._hands = Hands(self._channels["oversightd"], config.redactor(self.settings, self.paths.config_file))
        gate = Gate(slots=asyncio.Semaphore(self.settings.agent.workers))
        gate.open.set()
        self._foreman = Foreman(
            self._memory,
            self._mind,
            self._hands,
            gate,
            config.limits(self.settings),
        )
        self._foreman.max_queued_tasks = self.settings.resources.quotas.max_queued_tasks
        self._watch = Watch(gate, self._channels["oversightd"], self._channels["resourced"])
        self._watching = [asyncio.create_task(self._watch.control()), asyncio.create_task(self._watch.pressure())]
        self._began = time.monotonic()
        self._keeper = Keeper(self.settings.checkpoint, self._foreman, self._mind, self._hands, self._watch)

    async def reloaded(self) -> None:
        self._hands.redactor = config.redactor(self.settings, self.paths.config_file)
        self._keeper.follow(self.settings.checkpoint)

    def services(self) -> tuple[list[str], list[Register]]:
        service = AgentService(self._foreman, self._keeper, Door(self._watch.restoring), config.defaults(self.settings))
        return ["selfware.agent.v1.Agent"], [lambda server: _register(service, server)]

    def checks(self) -> list[Check]:
        return [
            Check("workers", self._look_at_workers, remedy=self._revive_workers),
            Check("memory", self._look_at_memory),
            Check("checkpoints", self._look_at_checkpoints, Severity.WARNING),
        ]

    def facts(self) -> dict[str, str]:
        session = self._memory.session
        return {
            "session": self._memory.session_id,
            "events": str(session.sequence),
            "tasks": str(len(session.tasks)),
            "epoch": str(self._memory.epoch),
        }

    def about(self) -> dict[str, str]:
        task_id = self._foreman.last_task_id
        named = {"task_id": task_id} if task_id and f"task {task_id}:" in self.sentence else {}
        return {"session_id": self._memory.session_id, **named} if self._memory.session_id else named

    def grace_seconds(self) -> float:
        """Only watchers are in flight, and they lose nothing."""
        return 0.3

    async def cycle(self) -> str:
        if not self._foreman.ready:
            return await self._recover()
        sentence = await self._foreman.round()
        await self._keeper.save_if_due()
        if time.monotonic() - self._began > self.settings.system.max_runtime_hours * 3600:
            self.stopping.set()
            return f"stopping after {self.settings.system.max_runtime_hours:g} h, as configured"
        await self.wait_or_stop(min(ROUND_SECONDS, self._keeper.due_in_seconds()), self._foreman.progressed)
        self._foreman.progressed.clear()
        return sentence

    async def close(self) -> None:
        for watching in self._watching:
            watching.cancel()
        await self._foreman.stop()
        if self._foreman.ready:
            await self._keeper.save_on_stop()
            if self._memory.unsaved:
                self.log.warning("%s", self._memory.unsaved)
            await self._memory.close()
        for channel in self._channels.values():
            await channel.close()

    async def _look_at_workers(self) -> str:
        for task_id in self._foreman.wedged():
            return f"task {task_id} stands still: {self._foreman.live(task_id).sentence}"
        return ""

    async def _revive_workers(self) -> str:
        return "; ".join([await self._foreman.revive(task_id) for task_id in self._foreman.wedged()])

    async def _look_at_memory(self) -> str:
        return self._memory.trouble if self._foreman.ready else "the session is not recovered yet"

    async def _look_at_checkpoints(self) -> str:
        """The journal has everything; a checkpoint is what keeps the next start short."""
        return self._keeper.hindrance()

    async def _recover(self) -> str:
        try:
            if not self._memory.session_id:
                await self._choose_session()
            self._mind.session_id = self._hands.session_id = self._memory.session_id
            await self._memory.recover()
        except grpc.aio.AioRpcError as error:
            await self.wait_or_stop(0.05)
            return f"waiting for checkpointd: {error.details()}"
        except CheckpointRefusedError as error:  # one that was gone back to; it may lie where nobody answers just now
            await self.wait_or_stop(1.0)
            return f"cannot recover yet: {error.sentence}"
        self._keeper.begin()
        self._foreman.recovered.set()
        self.sentence = self._memory.recovered_in_words  # said here, with its message id, and so not once more
        self.log.info("%s", self.sentence, extra=log.event(catalog.RECOVERED, session_id=self._memory.session_id))
        return self.sentence

    async def _choose_session(self) -> None:
        stub = checkpoint_pb2_grpc.CheckpointStub(self._channels["checkpointd"])
        reply = await stub.ListSessions(checkpoint_pb2.ListSessionsRequest(), timeout=10)
        self._memory.session_id = config.session_id(self.settings, reply.sessions)


def _register(service: AgentService, server: grpc.aio.Server) -> None:
    agent_pb2_grpc.add_AgentServicer_to_server(service, server)


def main() -> int:
    return daemon.run(AgentDaemon)


if __name__ == "__main__":
    sys.exit(main())
