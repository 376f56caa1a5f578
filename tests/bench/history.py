"""A long session as the agent would write it: how fast it is recovered, how many bytes its full history takes.

A step is four events (question, answer, proposed action, outcome) that carry about 2 KB of text together. Steps come
every five simulated seconds; checkpoints are made when the agent's own schedule says so, upkeep runs as the daemon's
cycle does it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from selfware_agent import fold, state
from selfware_agent.__main__ import LEVELS
from selfware_agent.checkpoint_schedule import Facts, Rules, Schedule
from selfware_agent.memory import Memory as AgentMemory
from selfware_checkpointd import config
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.segment import Record
from selfware_common import clients, events
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.settings import Settings
from tests.bench.common import median, say
from tests.bench.served import Checkpointd, tree_bytes
from tests.bench.workload import corpus

STEP_SECONDS = 5.0
MAINTAIN_SECONDS = 60.0
TASK = "long"
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


async def recover_seconds(base: Path, count: int, rounds: int) -> float:
    """Median time of the agent's own recovery (all events over gRPC, folded) from a checkpointd that was killed."""
    found = []
    with Checkpointd(base) as daemon:
        epoch = daemon.open("main").epoch
        batch: list[pb.Event] = []
        for sequence, (kind, payload) in enumerate(all_events(count), 1):
            if sequence > count:
                break
            batch.append(pb.Event(sequence=sequence, kind=kind, payload=events.encode(payload), time_unix_nanos=1))
            if len(batch) == 500 or sequence == count:
                daemon.stub.Append(pb.AppendRequest(session_id="main", epoch=epoch, events=batch), timeout=60)
                batch.clear()
        daemon.process.send_signal(signal.SIGKILL)
    for _ in range(rounds):
        with Checkpointd(base) as daemon:
            channel = clients.channel(daemon.socket)
            memory = AgentMemory(channel, "main")
            begin = time.perf_counter()
            await memory.recover()
            found.append(time.perf_counter() - begin)
            assert memory.session.sequence == count, memory.recovered_in_words
            await channel.close()
            daemon.process.send_signal(signal.SIGKILL)
    return median(found)


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
            await memory.maintain(config.keep(settings))
        if step in marks:
            found[step] = tree_bytes(base)
            say(f"{step} steps: {found[step] / 1e6:.2f} MB, journal {tree_bytes(base / 'sessions') / 1e6:.2f} MB")
    await memory.close()
    return found
