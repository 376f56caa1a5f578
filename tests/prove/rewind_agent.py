"""Proof: the whole product goes back to any step: files, conversation and tasks together, by the operator's command.

The agent works through shell commands, each of which changes its workspace and has to be approved; while it waits, the
operator makes a system checkpoint. Then `selfwarectl restore` takes it to random steps in random order, every other
time with a daemon killed meanwhile and the same command given again. Each time the tree, times included, must be what
it was, and what the agent knows must be what was saved, but for the ids of what it goes on with. In the end a fork of a
random step and its origin, taken back to the same step, work to their ends one after the other: both must get there,
with the same files, and neither may touch the other's.

Left out on purpose: setuid bits and hard links, which a restore does not bring back (selfware_common.trees), and
copying a directory into itself, which stops where the order of names on the disk has it stop.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfware_agent import past, rewinding, state
from selfware_common.rpc import agent_pb2, checkpoint_pb2
from tests.prove.common import Verdict, say
from tests.prove.rewind import edits, look, make_workspace
from tests.rig import ENDED, SETTINGS, Job, Rig, temporary_home

JOB = "walk"
LEFT_OUT = ("4755", "ln -f ", "cp -a docs docs")
VICTIMS = ("agent", "oversightd", "checkpointd")
MORE = "[agent]\nmax_steps = 100000\n[checkpoint.levels.system]\nenabled = false\n"


@dataclass(frozen=True)
class Moment:
    """What a step left."""

    tree: bytes
    known: state.Session
    checkpoint_id: str


async def prove(rounds: int, seed: int) -> Verdict:
    """`rounds` counts steps; one jump for every ten of them, at least two. Faults are kills during a restore."""
    chance = random.Random(seed)
    async with temporary_home() as home:
        workspace = home / "workspaces" / "w"
        workspace.parent.mkdir()
        make_workspace(workspace)
        async with Rig(home, script(rounds, chance), settings=SETTINGS + MORE) as rig:
            return await _Proof(rig, workspace, chance).run(rounds, seed)


def script(steps: int, chance: random.Random) -> list[dict[str, Any]]:
    """One answer for each step: a command that fails in the middle goes on, as the ones before it did something."""
    rules = []
    for number in range(1, steps + 1):
        lines = [line for line in edits(chance) if not any(word in line for word in LEFT_OUT)]
        text = "\n".join([*_GIT, "mkdir -p work", *lines, f"echo {number} >> steps.log"])
        rules.append({"when": {"contains": [f"{JOB};"], "seed": number}, "reply": _run(text)})
    last = {"tool": "finish", "summary": "walked"}
    return [*rules, {"when": {"contains": [f"{JOB};"], "seed": steps + 1}, "reply": last}]


def _run(text: str) -> dict[str, Any]:
    return {"tool": "run_command", "script": text}


_GIT = [
    f"export GIT_{who}_{what}"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME=Proof", "EMAIL=proof@localhost", "DATE='1700000000 +0000'")
]


class _Proof:
    def __init__(self, rig: Rig, workspace: Path, chance: random.Random) -> None:
        self.rig, self.workspace, self.chance = rig, workspace, chance
        self.bulk = rig.paths.socket_of("checkpointd", "bulk.sock")
        self.moments: list[Moment] = []
        self.killed = self.wrong = 0
        self.approved = ""

    async def run(self, rounds: int, seed: int) -> Verdict:
        await self.rig.submit(Job(JOB, f"{JOB}; take a walk", self.workspace))
        for step in range(rounds):
            await self.waiting()
            self.moments.append(await self.remember(f"before step {step + 1}"))
            await self.approve()
            await self.until(self.moved_on)
        await self.until(self.ended)
        say(f"recorded {len(self.moments)} steps")
        for jump in range(max(2, rounds // 10)):
            await self.jump(self.chance.choice(self.moments), with_kill=jump % 2 == 1)
        await self.fork(self.chance.choice(self.moments))
        return Verdict("rewind_agent", seed, rounds, self.killed, self.wrong, 0, 0, ok=not self.wrong)

    async def remember(self, label: str) -> Moment:
        request = agent_pb2.SaveNowRequest(level=agent_pb2.SAVE_LEVEL_SYSTEM, label=label)
        made = await self.rig.agent.SaveNow(request, timeout=60)
        assert not made.notes, made.notes
        return Moment(look(self.workspace), await self.known(made.checkpoint_id), made.checkpoint_id)

    async def known(self, checkpoint_id: str) -> state.Session:
        return (await asyncio.to_thread(past.read, self.bulk, self.rig.home / "spool", checkpoint_id, ""))[1]

    async def jump(self, moment: Moment, with_kill: bool) -> None:
        argv = ["restore", moment.checkpoint_id, "--stay-paused", "--json"]
        before = self.killed
        if with_kill:
            await self.with_a_kill(argv)
        for _ in range(20):
            code, out = await self.ctl(*argv)
            if code == 0:
                break
            await asyncio.sleep(0.3)  # what was killed is starting
        problems = [] if code == 0 else [f"not restored: {out.strip()}"]
        if look(self.workspace) != moment.tree:
            problems.append("the tree differs")
        request = checkpoint_pb2.LatestRequest(session_id="main")
        latest = await self.rig.checkpoint.Latest(request, timeout=20)
        now = await self.known(latest.checkpoint_id)
        if now.digest() != rewinding.restored(moment.known, now.branch, now.sequence).digest():  # but for times
            problems.append("what the agent knows differs")
        self.wrong += bool(problems)
        kill = " after a kill" if self.killed > before else ""
        say(f"{moment.checkpoint_id}{kill}: {'; '.join(problems) or 'as it was'}")

    async def with_a_kill(self, argv: list[str]) -> None:
        """Give the command, and kill a daemon somewhere in it."""
        given = asyncio.create_task(self.ctl(*argv))
        await asyncio.sleep(self.chance.uniform(0.3, 1.5))
        victim = self.chance.choice(VICTIMS)
        if not given.done() and self.rig.stack.pid_of(victim) is not None:
            self.rig.stack.kill(victim, signal.SIGKILL)
            self.killed += 1
        await given

    async def fork(self, moment: Moment) -> None:
        """A fork, and its origin at the same step, to their ends."""
        code, out = await self.ctl("fork", moment.checkpoint_id, "--name", "fork", "--json")
        assert code == 0, out
        copy = self.workspace.with_name("w-fork")
        early = look(copy, work_only=True)
        await self.jump(moment, with_kill=False)
        assert early == look(self.workspace, work_only=True)
        assert (await self.ctl("resume"))[0] == 0
        await self.to_its_end()
        problems = [] if look(copy, work_only=True) == early else ["the origin changed the fork's files"]
        late = look(self.workspace, work_only=True)
        assert (await self.ctl("recover", "--session", "fork"))[0] == 0
        await self.to_its_end()
        if look(self.workspace, work_only=True) != late:
            problems.append("the fork changed its origin's files")
        if look(copy, work_only=True) != late:
            problems.append("they did the same and came to different files")
        self.wrong += bool(problems)
        say(f"fork of {moment.checkpoint_id}: {'; '.join(problems) or 'both went to their ends'}")

    async def to_its_end(self) -> None:
        while not await self.ended():
            await self.approve()
            await asyncio.sleep(0.02)

    async def ended(self) -> bool:
        (task,) = (await self.rig.tasks()).values()
        return task.state in ENDED

    async def moved_on(self) -> bool:
        """What was approved has ended, and is known to have."""
        (task,) = (await self.rig.tasks()).values()
        return task.state in ENDED or (bool(task.waiting_approval_id) and task.waiting_approval_id != self.approved)

    async def waiting(self) -> None:
        async def waits() -> bool:
            (task,) = (await self.rig.tasks()).values()
            return bool(task.waiting_approval_id)

        await self.until(waits)

    async def approve(self) -> None:
        _, answer = await self.rig.operator("GET", "/interventions?state=pending")
        for question in answer["interventions"]:
            await self.rig.operator("POST", f"/interventions/{question['id']}/approve", {})
            self.approved = str(question["id"])

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(3000):
            if await condition():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"it never came true; {await self.rig.tasks()}")

    async def ctl(self, *argv: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "selfwarectl", *argv, env={**os.environ, "SELFWARE_HOME": str(self.rig.home)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode(errors="replace")
