"""Chooses which tasks are worked on, keeps their workers, and accepts what people ask of them.

A worker that fails takes the process down on purpose: the journal is the truth, and a fresh start from it is safer
than going on with a state nobody can vouch for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace

from selfware_agent import plan
from selfware_agent.errors import (
    AmbiguousTaskError,
    NotQuietError,
    NotReadyError,
    QueueFullError,
    UnknownTaskError,
    WorkerWedgedError,
    WrongPhaseError,
)
from selfware_agent.hands import Hands
from selfware_agent.memory import Memory
from selfware_agent.mind import Mind
from selfware_agent.state import Goal, Phase, Session, Task
from selfware_agent.worker import Gate, Live, Worker

CANCEL_SECONDS = 5.0
RECOVERY_SECONDS = 3.0
QUIET_POLL_SECONDS = 0.02
MOST_REVIVALS = 2
"""New workers in a row for a task that does not come any further; then the process itself is suspect."""


def order(session: Session) -> list[Task]:
    """Unfinished tasks, most urgent first: running before queued, then by priority, then by age."""
    open_tasks = [task for task in session.tasks.values() if not task.ended]
    return sorted(
        open_tasks,
        key=lambda task: (
            task.phase is not Phase.RUNNING,
            -task.goal.priority,
            task.observed.accepted_unix_nanos,
            task.task_id,
        ),
    )


class Foreman:
    """Owns the workers."""

    def __init__(
        self,
        memory: Memory,
        mind: Mind,
        hands: Hands,
        gate: Gate,
        limits: plan.Limits,
    ) -> None:
        self.memory = memory
        self.gate = gate
        self.recovered = asyncio.Event()
        self.max_queued_tasks = 1000
        self.last_sentence = ""
        self.last_task_id = ""
        self._mind = mind
        self._hands = hands
        self._limits = limits
        self._revived: dict[str, tuple[Task, int]] = {}
        self._workers: dict[str, Worker] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._held: set[str] = set()
        self._resting = 0
        self._listeners: set[Callable[[str], None]] = set()
        self.progressed = asyncio.Event()

    # What people ask.

    async def accept(self, goal: Goal) -> Task:
        """Durable before it returns; the same id again returns the task that exists."""
        known = self.memory.session.tasks.get(goal.task_id)
        if known is not None:
            return known
        waiting = sum(1 for task in self.memory.session.tasks.values() if not task.ended)
        if waiting >= self.max_queued_tasks:
            raise QueueFullError(count=waiting)
        try:
            await self.memory.record("GoalAccepted", task_id=goal.task_id, goal=asdict(goal))
        finally:
            self.progressed.set()  # also when it failed: round() then says why this process must end
        self._tell(goal.task_id, "accepted a goal")
        return self.memory.session.tasks[goal.task_id]

    async def placed(self, goal: Goal) -> Goal:
        """The goal with its workspace's real path. Found once, now: whoever can swap a link must not move a goal."""
        return replace(goal, workspace=await self._hands.real_workspace(goal.task_id, goal.workspace))

    async def cancel(self, prefix: str, reason: str) -> Task:
        """Stop working on a task; what it already did stays."""
        task = self.find(prefix)
        if task.ended:
            raise WrongPhaseError(task_id=task.task_id, phase=task.phase, wish="cancelled")
        self._held.add(task.task_id)  # no new worker until it is recorded
        try:
            if running := self._running.pop(task.task_id, None):
                running.cancel()
                await asyncio.wait([running])
            self._workers.pop(task.task_id, None)
            await self.memory.record("TaskCancelled", task_id=task.task_id, reason=reason or "by the operator")
        finally:
            self._held.discard(task.task_id)
        self._tell(task.task_id, "cancelled")
        return self.find(task.task_id)

    async def retry(self, prefix: str) -> Task:
        """Begin an ended task again with a fresh budget."""
        task = self.find(prefix)
        if not task.ended:
            raise WrongPhaseError(task_id=task.task_id, phase=task.phase, wish="retried before it has ended")
        await self.memory.record("TaskRetried", task_id=task.task_id)
        self._tell(task.task_id, "queued again")
        return self.find(task.task_id)

    @property
    def ready(self) -> bool:
        """The session is recovered: until then no task is known, which is not "no task"."""
        return self.recovered.is_set()

    async def wait_ready(self) -> None:
        """A restart is over in a moment, so callers need not know of it; one that lasts raises NotReadyError."""
        try:
            async with asyncio.timeout(RECOVERY_SECONDS):
                await self.recovered.wait()
        except TimeoutError:
            raise NotReadyError(reason="it is still recovering its session from checkpointd") from None

    def find(self, prefix: str) -> Task:
        """By id or unique prefix."""
        tasks = self.memory.session.tasks
        if prefix in tasks:
            return tasks[prefix]
        matches = sorted(name for name in tasks if name.startswith(prefix)) if prefix else []
        if not matches:
            raise UnknownTaskError(task_id=prefix)
        if len(matches) > 1:
            raise AmbiguousTaskError(task_id=prefix, candidates=", ".join(matches[:5]))
        return tasks[matches[0]]

    def live(self, task_id: str) -> Live:
        """What is happening to a task right now."""
        worker = self._workers.get(task_id)
        return worker.live if worker else Live()

    def listen(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener(task_id)` on every change; returns the function that ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    # One round of work.

    async def round(self) -> str:
        """Start workers for tasks that have none, surface what went wrong, say what is going on."""
        if self.memory.ended is not None:
            raise self.memory.ended
        if self._resting:  # those that have ended were told to; what else they raised, the next ones meet again
            return self.sentence()
        for task_id, running in list(self._running.items()):
            if running.done():
                del self._running[task_id], self._workers[task_id]
                running.result()  # raises what the worker raised
        for task in order(self.memory.session):
            if task.task_id not in self._running and task.task_id not in self._held:
                self._start(task.task_id)
        return self.sentence()

    def sentence(self) -> str:
        """What the agent is doing, in one line."""
        open_tasks = order(self.memory.session)
        if not open_tasks:
            return f"idle: {len(self.memory.session.tasks)} tasks done, waiting for a goal"
        if not self.gate.open.is_set():
            return self.gate.reason
        if self.memory.trouble:
            return self.memory.trouble
        waiting = [task for task in open_tasks if self.live(task.task_id).approval_id]
        if waiting and len(waiting) == len([t for t in open_tasks if t.phase is Phase.RUNNING]):
            return f"task {waiting[0].task_id}: {self.live(waiting[0].task_id).sentence}"
        return self.last_sentence or f"{len(open_tasks)} tasks waiting"

    def wedged(self) -> list[str]:
        """Tasks whose workers stand still at something that cannot take so long."""
        if self.memory.trouble:  # they wait for checkpointd, all of them
            return []
        now = asyncio.get_running_loop().time()
        return [task_id for task_id in self._running if self._workers[task_id].live.wedged(now)]

    async def revive(self, task_id: str) -> str:
        """Put another worker in the place of a wedged one: it does the same step again, under the same ids. Raises
        WorkerWedgedError when that has not helped, or the old one does not let go."""
        running = self._running.get(task_id)
        if running is None:
            return f"task {task_id}: it was cancelled meanwhile"
        task, live = self.memory.session.tasks[task_id], self.live(task_id)
        before, times = self._revived.get(task_id, (task, 0))
        times = times + 1 if before is task else 1
        self._revived[task_id] = (task, times)
        running.cancel()
        await asyncio.wait([running], timeout=CANCEL_SECONDS)
        if self._running.get(task_id) is not running:  # a person cancelled the task while we waited
            return f"task {task_id}: it was cancelled meanwhile"
        if self._resting:
            return f"task {task_id}: it goes on when the session does"
        if times > MOST_REVIVALS or not running.done():
            raise WorkerWedgedError(task_id=task_id, doing=live.sentence)
        self._start(task_id)
        seconds = asyncio.get_running_loop().time() - live.since
        return f"task {task_id}: a new worker begins the step again, the old one stood still for {seconds:.0f} s"

    @asynccontextmanager
    async def quiet(self, seconds: float) -> AsyncIterator[None]:
        """Inside, no worker has an action running or its outcome unrecorded, and none begins a step. Raises
        NotQuietError when that does not come about in time; what waits for a person does not count."""
        self.gate.held += 1
        self.gate.released.clear()
        try:
            end = asyncio.get_running_loop().time() + seconds
            while busy := [worker.task_id for worker in self._workers.values() if worker.acting]:
                if asyncio.get_running_loop().time() > end:
                    raise NotQuietError(reason=f"task {busy[0]} has an action under way")
                await asyncio.sleep(QUIET_POLL_SECONDS)
            yield
        finally:
            self.gate.held -= 1
            if not self.gate.held:
                self.gate.released.set()

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Inside, there are no workers; afterwards they go on from whatever the session is then."""
        self._resting += 1
        try:
            await self.stop()
            self._workers.clear()
            await self.memory.settled()
            yield
        finally:
            self._resting -= 1
            self.progressed.set()

    async def stop(self) -> None:
        """Stop all workers where they are; the journal knows where that is."""
        running = list(self._running.values())
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running, timeout=CANCEL_SECONDS)
        self._running.clear()

    def _start(self, task_id: str) -> None:
        worker = Worker(
            task_id,
            self.memory,
            self._mind,
            self._hands,
            self.gate,
            self._limits,
            self._tell,
        )
        self._workers[task_id] = worker
        running = asyncio.create_task(worker.run(), name=f"worker {task_id}")
        running.add_done_callback(lambda _: self.progressed.set())
        self._running[task_id] = running

    def _tell(self, task_id: str, sentence: str) -> None:
        self.last_sentence, self.last_task_id = f"task {task_id}: {sentence}", task_id
        self.progressed.set()
        for listener in tuple(self._listeners):
            listener(task_id)
