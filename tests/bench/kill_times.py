"""How long after `kill -9` of a process the work goes on: real daemons, scripted engine, an endless task.

The victim dies while it is busy with the task. The clock stops when the journal's follow stream brings the next event
that this victim had to come back for: for the agent and checkpointd any event, for oversightd the outcome of an
action, for inferenced and the engine an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from pathlib import Path

import grpc.aio

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.bench.common import line, median, percentile, say
from tests.rig import SETTINGS, Job, Rig, temporary_home

BUSY_UNTIL = {
    "agent": "",
    "checkpointd": "",
    "oversightd": "ActionFinished",
    "inferenced": "ModelAnswered",
    "engine": "ModelAnswered",
}
BUSY_SINCE = {"ActionFinished": "ActionProposed", "ModelAnswered": "ModelRequested"}
DEADLINE_SECONDS = 60.0
SCRIPT = [{"reply": {"tool": "write_file", "path": "note", "content": "one more step"}, "tokens_delay_seconds": 0.002}]


class Follower:
    """Owns a follow stream on the journal and begins it again when it breaks."""

    def __init__(self, socket: Path) -> None:
        self._channel = clients.channel(socket)
        self._stub = checkpoint_pb2_grpc.CheckpointStub(self._channel)
        self._changed = asyncio.Condition()
        self.seen: list[tuple[float, pb.Event]] = []
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._channel.close()

    async def next_event(self, kind: str, after_sequence: int) -> tuple[float, pb.Event]:
        """When the first event of this kind ('' for any) beyond a sequence was seen, and which."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            while True:
                for when, event in self.seen[after_sequence:]:
                    if kind in ("", event.kind):
                        return when, event
                await self._changed.wait()

    async def _follow(self) -> None:
        while True:
            request = pb.ReadEventsRequest(session_id="main", after_sequence=len(self.seen), follow=True)
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for event in self._stub.ReadEvents(request):
                    async with self._changed:
                        self.seen.append((time.perf_counter(), event))
                        self._changed.notify_all()
            await asyncio.sleep(0.01)


async def one_kill(rig: Rig, follower: Follower, victim: str, chance: random.Random) -> float:
    """Seconds from the signal to the next event."""
    until = BUSY_UNTIL[victim]
    await follower.next_event(BUSY_SINCE.get(until, ""), len(follower.seen))
    await asyncio.sleep(chance.uniform(0.0, 0.02))
    while rig.stack.pid_of(victim) is None:
        await asyncio.sleep(0.005)
    seen = len(follower.seen)
    begin = time.perf_counter()
    rig.stack.kill(victim, signal.SIGKILL)
    while True:
        when, event = await follower.next_event(until, seen)
        if event.time_unix_nanos and when > begin:
            break
        seen = event.sequence
    # The next kill waits until the stack is whole again.
    await rig.stack.wait_ready(DEADLINE_SECONDS)
    await follower.next_event("ActionFinished", len(follower.seen))
    return when - begin


async def measure(kills: int) -> None:
    """Kills spread over all victims in turn; one line per victim."""
    chance = random.Random(1)
    found: dict[str, list[float]] = {victim: [] for victim in BUSY_UNTIL}
    async with temporary_home() as home:
        workspace = home / "workspaces/job"
        workspace.mkdir(parents=True)
        settings = f"{SETTINGS}[agent]\nmax_steps = 1000000\n"
        async with Rig(home, SCRIPT, settings, approve=lambda _: True) as rig:
            follower = Follower(rig.paths.socket_of("checkpointd"))
            await rig.submit(Job("endless", "endless; write the note again and again", workspace))
            await follower.next_event("ActionFinished", 0)
            for number in range(1, kills + 1):
                for victim, seconds in found.items():
                    seconds.append(await one_kill(rig, follower, victim, chance))
                say(f"kill {number}: " + ", ".join(f"{name} {times[-1]:.3f}" for name, times in found.items()))
            sequences = [event.sequence for _, event in follower.seen]
            assert sequences == list(range(1, len(sequences) + 1)), "the journal has a gap"
            await follower.close()
    for victim, seconds in found.items():
        worst = max(seconds)
        say(f"{victim}: median {median(seconds):.3f} s, worst {worst:.3f} s")
        line("recovery", f"kill_to_next_step_seconds_p95_{victim}", "s", percentile(seconds, 0.95), n=kills)
