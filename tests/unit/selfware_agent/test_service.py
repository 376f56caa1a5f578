"""Going back, and changing to another session: one after the other, and never by halves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

from selfware_agent import config, service, state
from selfware_agent.door import Door
from selfware_agent.service import AgentService
from selfware_common.rpc import agent_pb2

DEFAULTS = config.Defaults(strategy="loop", max_attempts=1, budget_tokens=0, budget_seconds=0)


class Agent:
    """A foreman, its memory and a keeper in one; a restore lasts until it is let go."""

    def __init__(self) -> None:
        self.memory: Any = self
        self.session, self.session_id, self.recovered_in_words = state.Session(), "main", "recovered"
        self.recovered, self.progressed, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.done: list[str] = []
        self.resting, self.restoring = False, ""

    async def wait_ready(self) -> None:
        return

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        self.resting = True
        try:
            yield
        finally:
            self.resting = False

    async def restore(self, checkpoint_id: str) -> None:
        self.done.append(f"reads {checkpoint_id} of {self.session_id}")
        await self.go.wait()
        assert self.resting
        self.done.append(f"restores {self.session_id}")

    async def require_session(self, session_id: str) -> None:
        return

    async def save_on_stop(self) -> None:
        return

    async def close(self) -> None:
        return

    def begin(self) -> None:
        return

    def switch(self, session_id: str) -> None:
        self.session_id = session_id
        self.done.append(f"switches to {session_id}")


async def begun(agent: Agent, service: AgentService) -> asyncio.Task[Any]:
    call = asyncio.create_task(service.Restore(agent_pb2.RestoreRequest(checkpoint_id="c"), SimpleNamespace()))
    while not agent.done:
        await asyncio.sleep(0)
    return call


def service_of(agent: Agent) -> AgentService:
    async def restoring() -> str:
        return agent.restoring

    return AgentService(cast(Any, agent), cast(Any, agent), Door(restoring), DEFAULTS)


def test_who_hangs_up_does_not_leave_a_restore_half_done() -> None:
    async def scenario() -> None:
        agent = Agent()
        call = await begun(agent, service_of(agent))
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        assert agent.resting
        agent.go.set()
        while agent.resting:
            await asyncio.sleep(0)
        assert agent.done == ["reads c of main", "restores main"]

    asyncio.run(scenario())


def test_no_session_is_restored_to_what_was_read_of_another_one() -> None:
    async def scenario() -> None:
        agent = Agent()
        service = service_of(agent)
        call = await begun(agent, service)
        other = asyncio.create_task(service.Recover(agent_pb2.RecoverRequest(session_id="try"), SimpleNamespace()))
        for _ in range(20):
            await asyncio.sleep(0)
        agent.go.set()
        await asyncio.gather(call, other)
        assert agent.done == ["reads c of main", "restores main", "switches to try"]

    asyncio.run(scenario())


def test_a_workspace_has_one_name_however_it_is_written() -> None:
    """A system checkpoint names it to oversightd, which compares."""
    request = agent_pb2.SubmitRequest(goal="do it", workspace="/srv//repo/./")
    assert service.to_goal(request, DEFAULTS).workspace == "/srv/repo"
