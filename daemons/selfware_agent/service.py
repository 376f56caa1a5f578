"""The gRPC face of the agent: goals in, progress out."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from selfware_agent.checkpoint_schedule import Level
from selfware_agent.config import Defaults
from selfware_agent.door import Door
from selfware_agent.errors import BadGoalError
from selfware_agent.foreman import Foreman
from selfware_agent.keeping import Keeper
from selfware_agent.state import Goal, Phase, Task
from selfware_common.rpc import agent_pb2, agent_pb2_grpc
from selfware_common.rpc.inference_pb2 import Priority

MAX_GOAL_CHARS = 100_000
MIN_PUSH_SECONDS = 0.1

Reply = TypeVar("Reply")

_STATES = {
    Phase.QUEUED: agent_pb2.TASK_STATE_QUEUED,
    Phase.RUNNING: agent_pb2.TASK_STATE_RUNNING,
    Phase.SOLVED: agent_pb2.TASK_STATE_SOLVED,
    Phase.FAILED: agent_pb2.TASK_STATE_FAILED,
    Phase.CANCELLED: agent_pb2.TASK_STATE_CANCELLED,
}


class AgentService(agent_pb2_grpc.AgentServicer):
    """Translates; decides nothing."""

    def __init__(self, foreman: Foreman, keeper: Keeper, door: Door, defaults: Defaults) -> None:
        self._foreman = foreman
        self._door = door
        self._keeper = keeper
        self._defaults = defaults
        self._turn = asyncio.Lock()  # of whoever puts another session, or another past, in place of the present
        self._errands: set[asyncio.Task[Any]] = set()

    async def Submit(self, request: agent_pb2.SubmitRequest, context: Any) -> agent_pb2.Task:
        await self._foreman.wait_ready()
        goal = to_goal(request, self._defaults)
        async with self._door.through("No goal is taken"):
            return self._task(await self._foreman.accept(await self._foreman.placed(goal)))

    async def ListTasks(self, request: agent_pb2.ListTasksRequest, context: Any) -> agent_pb2.ListTasksReply:
        await self._foreman.wait_ready()
        tasks = self._foreman.memory.session.tasks.values()
        ordered = sorted(tasks, key=lambda task: (task.observed.accepted_unix_nanos, task.task_id))
        session_id = self._foreman.memory.session_id
        return agent_pb2.ListTasksReply(tasks=[self._task(task) for task in ordered], session_id=session_id)

    async def GetTask(self, request: agent_pb2.GetTaskRequest, context: Any) -> agent_pb2.Task:
        await self._foreman.wait_ready()
        return self._task(self._foreman.find(request.task_id))

    async def CancelTask(self, request: agent_pb2.CancelTaskRequest, context: Any) -> agent_pb2.Task:
        await self._foreman.wait_ready()
        async with self._door.through("No task is cancelled"):
            return self._task(await self._foreman.cancel(request.task_id, request.reason))

    async def RetryTask(self, request: agent_pb2.RetryTaskRequest, context: Any) -> agent_pb2.Task:
        await self._foreman.wait_ready()
        async with self._door.through("No task is tried again"):
            return self._task(await self._foreman.retry(request.task_id))

    async def Watch(self, request: agent_pb2.WatchRequest, context: Any) -> AsyncIterator[agent_pb2.Progress]:
        """At most ten pushes a second per task: tokens come faster than anybody reads."""
        await self._foreman.wait_ready()
        only = self._foreman.find(request.task_id).task_id if request.task_id else ""
        tasks = self._foreman.memory.session.tasks
        dirty: dict[str, None] = dict.fromkeys([only] if only else list(tasks))
        wake = asyncio.Event()
        wake.set()

        def listener(task_id: str) -> None:
            if not only or task_id == only:
                dirty[task_id] = None
                wake.set()

        unlisten = self._foreman.listen(listener)
        try:
            while True:
                await wake.wait()
                wake.clear()
                batch = list(dirty)
                dirty.clear()
                for task_id in batch:
                    yield self._progress(self._foreman.find(task_id))
                await asyncio.sleep(MIN_PUSH_SECONDS)
        finally:
            unlisten()

    async def SaveNow(self, request: agent_pb2.SaveNowRequest, context: Any) -> agent_pb2.SaveNowReply:
        await self._foreman.wait_ready()
        level = Level(request.level or agent_pb2.SAVE_LEVEL_SYSTEM)
        label = request.label or "by the operator"
        if request.before_restore:
            await self._door.settled()
        if request.before_restore or level is not Level.SYSTEM:
            made = await self._keeper.save_now(level, label)
        else:  # the files may be those of another moment already
            async with self._door.through("No files are saved"):
                made = await self._keeper.save_now(level, label)
        return agent_pb2.SaveNowReply(
            checkpoint_id=made.checkpoint_id,
            sequence=made.sequence,
            state_bytes=made.state_bytes,
            stored_bytes=made.stored_bytes,
            notes=made.notes,
        )

    async def Restore(self, request: agent_pb2.RestoreRequest, context: Any) -> agent_pb2.RestoreReply:
        return await self._to_its_end(self._restore(request))

    async def _restore(self, request: agent_pb2.RestoreRequest) -> agent_pb2.RestoreReply:
        await self._foreman.wait_ready()
        memory = self._foreman.memory
        with self._door.closed(request.checkpoint_id):
            await self._door.settled()
            async with self._foreman.at_rest():
                await memory.restore(request.checkpoint_id)
                self._keeper.begin()
        tasks = [self._task(task) for task in memory.session.tasks.values()]
        return agent_pb2.RestoreReply(session_id=memory.session_id, sequence=memory.session.sequence, tasks=tasks)

    async def Fork(self, request: agent_pb2.ForkRequest, context: Any) -> agent_pb2.ForkReply:
        await self._foreman.wait_ready()
        session, made = await self._foreman.memory.fork(
            request.checkpoint_id, request.session_id, dict(request.workspaces)
        )
        goals = [task.goal for task in session.tasks.values() if not task.ended]
        return agent_pb2.ForkReply(
            session_id=request.session_id,
            sequence=session.sequence,
            checkpoint_id=made.checkpoint_id,
            goals=[
                agent_pb2.ForkedGoal(
                    goal_id=goal.task_id, workspace=goal.workspace, check=goal.check, commit=goal.commit
                )
                for goal in goals
            ],
        )

    async def Recover(self, request: agent_pb2.RecoverRequest, context: Any) -> agent_pb2.RecoverReply:
        return await self._to_its_end(self._recover(request))

    async def _recover(self, request: agent_pb2.RecoverRequest) -> agent_pb2.RecoverReply:
        await self._foreman.wait_ready()
        memory = self._foreman.memory
        wanted = request.session_id or memory.session_id
        await memory.require_session(wanted)
        if wanted != memory.session_id:
            async with self._door.through("No other session is taken up"):
                await self._change_session(wanted)
        else:
            await self._change_session(wanted)
        return agent_pb2.RecoverReply(sentence=memory.recovered_in_words)

    async def _change_session(self, wanted: str) -> None:
        memory = self._foreman.memory
        async with self._foreman.at_rest():
            await self._keeper.save_on_stop()
            await memory.close()
            self._foreman.recovered.clear()
            memory.switch(wanted)
        self._foreman.progressed.set()
        await self._foreman.wait_ready()

    async def _to_its_end(self, work: Coroutine[Any, Any, Reply]) -> Reply:
        """One at a time, and whoever hangs up meanwhile stops waiting, no more: an event that may be durable has to
        become ours, and a session that was left has to be followed by the other one."""

        async def in_turn() -> Reply:
            async with self._turn:
                return await work

        errand = asyncio.create_task(in_turn())
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)
        return await asyncio.shield(errand)

    def _progress(self, task: Task) -> agent_pb2.Progress:
        live = self._foreman.live(task.task_id)
        return agent_pb2.Progress(
            task=self._task(task),
            sentence=task.sentence if task.ended else live.sentence or task.sentence,
            sequence=self._foreman.memory.session.sequence,
            tokens_per_second=live.tokens_per_second,
            stream_tokens=live.stream_tokens,
        )

    def _task(self, task: Task) -> agent_pb2.Task:
        live = self._foreman.live(task.task_id)
        waiting = bool(live.approval_id) and not task.ended
        return agent_pb2.Task(
            task_id=task.task_id,
            goal=task.goal.text,
            workspace=task.goal.workspace,
            check=task.goal.check,
            state=agent_pb2.TASK_STATE_WAITING if waiting else _STATES[task.phase],
            verified=task.verified,
            sentence=task.sentence if task.ended else live.sentence or task.sentence,
            attempt=task.attempt,
            steps=task.requests,
            prompt_tokens=task.prompt_tokens,
            completion_tokens=task.completion_tokens,
            accepted_unix_nanos=task.observed.accepted_unix_nanos,
            started_unix_nanos=task.observed.started_unix_nanos,
            ended_unix_nanos=task.observed.ended_unix_nanos,
            commit=task.observed.commit,
            waiting_approval_id=live.approval_id if waiting else "",
            priority=Priority.ValueType(task.goal.priority),
        )


def to_goal(request: agent_pb2.SubmitRequest, defaults: Defaults) -> Goal:
    """Check what a person asked for and fill in the defaults; raises BadGoalError."""
    text = request.goal.strip()
    if not text:
        raise BadGoalError(problem="it has no text")
    if len(text) > MAX_GOAL_CHARS:
        raise BadGoalError(problem=f"its text has {len(text)} characters, the limit is {MAX_GOAL_CHARS}")
    if not Path(request.workspace).is_absolute():
        raise BadGoalError(problem=f"the workspace '{request.workspace}' is not an absolute path")
    for path in (*request.target_paths, *request.context_paths):
        if Path(path).is_absolute() or ".." in Path(path).parts or not path:
            raise BadGoalError(problem=f"the path '{path}' is not relative to the workspace")
    task_id = request.goal_id or f"task-{time.strftime('%y%m%d')}-{uuid.uuid4().hex[:6]}"
    if not all(char.isalnum() or char in "-_." for char in task_id) or len(task_id) > 80:
        raise BadGoalError(problem=f"the id '{task_id}' may hold only letters, digits, '-', '_' and '.'")
    may_sample = defaults.strategy in {"sample", "auto"}
    return Goal(
        task_id=task_id,
        text=text,
        workspace=os.path.normpath(request.workspace),
        check=tuple(request.check),
        priority=request.priority or Priority.PRIORITY_NORMAL,
        budget_tokens=request.budget_tokens or defaults.budget_tokens,
        budget_seconds=request.budget_seconds or defaults.budget_seconds,
        max_attempts=request.max_attempts or defaults.max_attempts,
        context_paths=tuple(request.context_paths),
        target_paths=tuple(request.target_paths),
        commit=request.commit,
        sample=may_sample and bool(request.check) and len(request.target_paths) == 1,
    )
