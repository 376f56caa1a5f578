"""A long session as the agent would write it: how fast it is recovered, how many bytes its full history takes.

A step is four events (question, answer, proposed action, outcome) that carry about 2 KB of text together. Steps come
every five simulated seconds; checkpoints are made when the agent's own schedule says so, upkeep runs as the daemon's
cycle does it.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

from selfware_agent import checkpoint_schedule, fold, state
from selfware_agent.checkpoint_schedule import Facts, Rules, Schedule
from selfware_agent.memory import Memory as AgentMemory
from selfware_checkpointd import config
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.segment import Record
from selfware_common import clients, events
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from selfware_common.settings import Settings
from tests.bench.common import median, say, stopwatch
from tests.bench.served import Checkpointd, tree_bytes
from tests.bench.workload import corpus

STEP_SECONDS = 5.0
MAINTAIN_SECONDS = 60.0
TASK = "long"
LEVELS = (checkpoint_schedule.Level.MICRO, checkpoint_schedule.Level.TASK, checkpoint_schedule.Level.SESSION)
"""Without the files of system checkpoints: the peers keep none."""
Kind = tuple[str, dict[str, object]]


def text_of_step(step: int, size: int) -> str:
    """Real source text, the next piece for every step: nothing comes again before all of it has been used."""
    text = whole_text()
    start = (step * size) % (len(text) - size)
    return text[start : start + size]


@cache
def whole_text() -> str:
    """Several MB of the standard library."""
    return "\n".join(line for lines in corpus().lines for line in lines)


def beginning() -> list[Kind]:
    goal = {"task_id": TASK, "text": "a long piece of work", "workspace": "/w", "check": [], "priority": 0}
    goal |= {"budget_tokens": 0, "budget_seconds": 0.0, "max_attempts": 1, "commit": False, "sample": False}
    goal |= {"context_paths": [], "target_paths": []}
    return [("GoalAccepted", {"task_id": TASK, "goal": goal}), ("TaskStarted", {"task_id": TASK})]


def step_events(step: int, size: int = 2048) -> list[Kind]:
    """One step: the model writes half of the text, the action answers with the other half."""
    text = text_of_step(step, size)
    action = {"tool": "run_command", "script": text[: size // 2]}
    answer = events.encode(action).decode()
    effect_id, request_id = f"{TASK}.1.{step}", f"{TASK}.1.q{step}"
    outcome = {"effect_id": effect_id, "state": "done", "ok": True, "sentence": "ended with status 0"}
    return [
        ("ModelRequested", {"task_id": TASK, "request_id": request_id, "seed": step, "temperature": 0.5}),
        (
            "ModelAnswered",
            {
                "task_id": TASK,
                "request_id": request_id,
                "text": answer,
                "finish_reason": "stop",
                "prompt_tokens": 3000,
                "completion_tokens": 300,
            },
        ),
        ("ActionProposed", {"task_id": TASK, "effect_id": effect_id, "purpose": "act", "action": action}),
        ("ActionFinished", {"task_id": TASK, **outcome, "output": text[size // 2 :], "whole": True}),
    ]


def all_events(count: int) -> Iterator[Kind]:
    """The first `count` events of the session."""
    yield from beginning()
    for step in range(1, (count + 1) // 4 + 1):
        yield from step_events(step)


@dataclasses.dataclass(frozen=True)
class Recovered:
    """Median seconds until all events of a session without a checkpoint are there again, in three places."""

    inprocess: float  # Memory.recover of checkpointd, the journal not yet open
    rpc: float  # the Recover call of a checkpointd that was killed, every event parsed by the caller
    agent: float  # the agent's whole recovery: it opens the session, recovers, decodes and folds every event


async def recover_seconds(base: Path, count: int, rounds: int) -> Recovered:
    """The three interleaved, from the same journal."""
    times: dict[str, list[float]] = {"inprocess": [], "rpc": [], "agent": []}
    with Checkpointd(base) as daemon:
        _write_history(daemon, count)
        daemon.process.send_signal(signal.SIGKILL)
    root = base / "state/checkpointd"
    for _ in range(rounds):
        memory = Memory(root)
        with stopwatch(times["inprocess"]):
            found = await memory.recover("main")
        assert len(found.events) == count
        await memory.close()
        with Checkpointd(base) as daemon:
            channel = clients.channel(daemon.socket)
            stub = checkpoint_pb2_grpc.CheckpointStub(channel)
            with stopwatch(times["rpc"]):
                replies = [reply async for reply in stub.Recover(pb.RecoverRequest(session_id="main"), timeout=60)]
            assert sum(len(reply.events.events) for reply in replies) == count
            await channel.close()
            daemon.process.send_signal(signal.SIGKILL)
        with Checkpointd(base) as daemon:
            channel = clients.channel(daemon.socket)
            agent = AgentMemory(channel, daemon.bulk, base / "spool", "main")
            with stopwatch(times["agent"]):
                await agent.recover()
            assert agent.session.sequence == count, agent.recovered_in_words
            await channel.close()
            daemon.process.send_signal(signal.SIGKILL)
    return Recovered(**{name: median(values) for name, values in times.items()})


def _write_history(daemon: Checkpointd, count: int) -> None:
    epoch = daemon.open("main").epoch
    batch: list[pb.Event] = []
    for sequence, (kind, payload) in enumerate(islice(all_events(count), count), 1):
        batch.append(pb.Event(sequence=sequence, kind=kind, payload=events.encode(payload), time_unix_nanos=1))
        if len(batch) == 500 or sequence == count:
            daemon.stub.Append(pb.AppendRequest(session_id="main", epoch=epoch, events=batch), timeout=60)
            batch.clear()


async def stored_bytes(base: Path, marks: list[int]) -> dict[int, int]:
    """Bytes on disk after so many steps: journal with full history, and the checkpoints that are kept."""
    settings = Settings()
    memory = Memory(base)
    opened = await memory.open_session("main", "bench")
    session, found = state.Session(), {}
    schedule = Schedule.begin(Rules.of(settings.checkpoint, LEVELS), 0.0)
    for step in range(max(marks) + 1):
        now = step * STEP_SECONDS
        records = []
        for kind, payload in step_events(step) if step else beginning():
            nanos = int((1.79e9 + now) * 1e9)
            session = fold.fold(session, session.sequence + 1, kind, payload, nanos)
            records.append(Record(opened.epoch, session.sequence, nanos, kind, events.encode(payload)))
        await memory.append("main", opened.epoch, records)
        facts = Facts(session.sequence)
        if level := schedule.due(now, facts):
            await memory.save("main", opened.epoch, Level(level), session.sequence, session.encode(), "")
            schedule = schedule.saved(level, now, now, facts)
        if now % MAINTAIN_SECONDS == 0:
            await memory.maintain(config.policy(settings))
        if step in marks:
            found[step] = tree_bytes(base)
            say(f"{step} steps: {found[step] / 1e6:.2f} MB, journal {tree_bytes(base / 'sessions') / 1e6:.2f} MB")
    await memory.close()
    return found
