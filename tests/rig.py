"""A whole Selfware for tests, proofs and benches: real daemons, real sockets, a scripted engine instead of a model.

    async with Rig(home, script) as rig:
        await rig.submit(Job(...))
        await rig.all_ended()
        rig.events()

An approver plays the operator: it approves what is asked, unless told not to.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import blake3
import grpc
import grpc.aio

from selfware_agent import fold, state
from selfware_common import clients, events, paths
from selfware_common.rpc import agent_pb2, agent_pb2_grpc, checkpoint_pb2, checkpoint_pb2_grpc
from selfwarectl.foreground import Stack
from selfwarectl.supervised import Backoff

ENDED = {agent_pb2.TASK_STATE_SOLVED, agent_pb2.TASK_STATE_FAILED, agent_pb2.TASK_STATE_CANCELLED}
SETTINGS = '[llm]\nmodel = "scripted"\n[observability.logging]\nlevel = "info"\n'


@dataclasses.dataclass(frozen=True)
class Job:
    """One goal as the operator submits it."""

    goal_id: str
    text: str
    workspace: Path
    check: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    commit: bool = False
    max_attempts: int = 0


class Rig:
    """Owns one stack in one home."""

    def __init__(
        self,
        home: Path,
        script: list[dict[str, Any]],
        settings: str = SETTINGS,
        approve: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.home = home
        self.paths = paths.foreground(home)
        self._approve = approve
        self._approver: asyncio.Task[None] | None = None
        self.paths.config.mkdir(parents=True, exist_ok=True)
        self.paths.config_file.write_text(settings)
        script_file, state_file = home / "script.json", home / "script.state"
        script_file.write_text(json.dumps(script))
        self.paths.engine_socket("scripted").parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "selfware_common.testing.scripted_engine"]
        argv += ["--socket", str(self.paths.engine_socket("scripted")), "--script", str(script_file)]
        argv += ["--state", str(state_file)]
        self.stack = Stack(home, engine_argv=argv, grace_seconds=10, backoff=Backoff(0, 0))

    async def __aenter__(self) -> Rig:
        await self.stack.start()
        await self.stack.wait_ready(60)
        self.agent_channel = clients.channel(self.paths.socket_of("agent"))
        self.agent = agent_pb2_grpc.AgentStub(self.agent_channel)
        self.checkpoint_channel = clients.channel(self.paths.socket_of("checkpointd"))
        self.checkpoint = checkpoint_pb2_grpc.CheckpointStub(self.checkpoint_channel)
        if self._approve is not None:
            self._approver = asyncio.create_task(self._approve_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._approver is not None:
            self._approver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._approver
        await self.agent_channel.close()
        await self.checkpoint_channel.close()
        await self.stack.stop()

    async def operator(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """One call of the operator's HTTP API; waits while oversightd restarts."""
        socket = str(self.paths.socket_of("oversightd", "operator.sock"))
        for _ in range(400):
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket)) as session,
                    session.request(method, f"http://operator{path}", json=body) as answer,
                ):
                    return answer.status, await answer.json(content_type=None)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.05)
        raise AssertionError(f"oversightd never answered {method} {path}")

    async def submit(self, job: Job) -> None:
        """Register the goal with oversightd, then hand it to the agent; repeated until both have it."""
        status, answer = await self.operator(
            "POST",
            "/goals",
            {"goal_id": job.goal_id, "workspace": str(job.workspace), "check": list(job.check), "commit": job.commit},
        )
        assert status in (200, 201), answer
        request = agent_pb2.SubmitRequest(
            goal_id=job.goal_id,
            goal=job.text,
            workspace=str(job.workspace),
            check=job.check,
            target_paths=job.targets,
            context_paths=job.context,
            commit=job.commit,
            max_attempts=job.max_attempts,
        )
        await patiently(lambda: self.agent.Submit(request, timeout=30))

    async def tasks(self) -> dict[str, agent_pb2.Task]:
        """All tasks by id; waits while the agent restarts."""
        reply = await patiently(lambda: self.agent.ListTasks(agent_pb2.ListTasksRequest(), timeout=10))
        return {task.task_id: task for task in reply.tasks}

    async def all_ended(self, count: int, deadline_seconds: float = 120) -> dict[str, agent_pb2.Task]:
        """Wait until `count` tasks have ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_seconds
        while True:
            tasks = await self.tasks()
            if len(tasks) >= count and all(task.state in ENDED for task in tasks.values()):
                return tasks
            if loop.time() > end:
                said = {task.task_id: (task.state, task.sentence) for task in tasks.values() if task.state not in ENDED}
                raise AssertionError(f"not ended after {deadline_seconds} s: {said}; logs in {self.home / 'log'}")
            await asyncio.sleep(0.1)

    async def events(self, session_id: str = "main") -> list[checkpoint_pb2.Event]:
        """The whole journal of the session."""

        async def read() -> list[checkpoint_pb2.Event]:
            request = checkpoint_pb2.ReadEventsRequest(session_id=session_id)
            return [event async for event in self.checkpoint.ReadEvents(request, timeout=60)]

        return await patiently(read)

    async def _approve_for_ever(self) -> None:
        assert self._approve is not None
        while True:
            _, answer = await self.operator("GET", "/interventions?state=pending")
            for question in answer.get("interventions", []):
                if self._approve(question):
                    await self.operator("POST", f"/interventions/{question['id']}/approve", {})
            await asyncio.sleep(0.05)


async def patiently(call: Callable[[], Any]) -> Any:
    """Repeat an idempotent call until the daemon behind it is back."""
    for _ in range(200):
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNKNOWN,
            ):
                raise
            await asyncio.sleep(0.1)
    raise AssertionError("the daemon never came back")


def folded(journal: list[checkpoint_pb2.Event]) -> state.Session:
    """The state that the journal stands for; raises on a gap."""
    session = state.Session()
    for event in journal:
        session = fold.fold(session, event.sequence, event.kind, events.decode(event.payload), event.time_unix_nanos)
    return session


def effect_ids(journal: list[checkpoint_pb2.Event]) -> list[str]:
    """Every effect that was proposed, in order."""
    return [events.decode(event.payload)["effect_id"] for event in journal if event.kind == "ActionProposed"]


def tree_hash(root: Path, *, without: tuple[str, ...] = (".git",)) -> str:
    """BLAKE3 over names, modes and contents of a tree."""
    digest = blake3.blake3()
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in without or "__pycache__" in relative.parts or ".pytest_cache" in relative.parts:
            continue
        kind = "link" if path.is_symlink() else "dir" if path.is_dir() else "file"
        content = os.readlink(path).encode() if kind == "link" else b"" if kind == "dir" else path.read_bytes()
        mode = 0 if kind == "link" else path.stat().st_mode & 0o777
        digest.update(json.dumps([str(relative), kind, mode, len(content)]).encode() + content)
    return digest.hexdigest()


@contextlib.asynccontextmanager
async def temporary_home() -> AsyncIterator[Path]:
    """A home with a path short enough for Unix sockets; removed afterwards unless KEEP_HOME is set."""
    import shutil
    import tempfile

    home = Path(tempfile.mkdtemp(prefix="sw-"))
    try:
        yield home
    finally:
        if "KEEP_HOME" in os.environ:
            sys.stderr.write(f"kept {home}\n")
        else:
            shutil.rmtree(home, ignore_errors=True)
