"""The whole spine with a scripted engine: a goal in, approvals by the real command line, kills, a polite stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from selfware_common.rpc import agent_pb2, checkpoint_pb2
from selfware_tool.probe import probe
from tests.rig import SETTINGS, Job, Rig, effect_ids, folded, temporary_home

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def sandbox() -> None:
    found = probe()
    if not found.available:
        pytest.skip(f"{found.sentence} {found.hint}")


def run(work: Callable[[Path, Path], Awaitable[None]]) -> None:
    async def in_a_home() -> None:
        async with temporary_home() as home:
            workspace = home / "workspaces" / "w"
            workspace.mkdir(parents=True)
            await asyncio.wait_for(work(home, workspace), 240)

    asyncio.run(in_a_home())


async def ctl(home: Path, *argv: str) -> tuple[int, str]:
    """The real command line, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "selfwarectl",
        *argv,
        env={**os.environ, "SELFWARE_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert b"Traceback" not in out, out.decode()
    return process.returncode or 0, out.decode()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(600):
        if await condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came true")


def loop_script(name: str, *replies: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"when": {"contains": [f"{name};"], "seed": number}, "reply": reply}
        for number, reply in enumerate(replies, start=1)
    ]


ASKS = loop_script(
    "asks",
    {"tool": "run_command", "script": "echo approved >> log"},
    {"tool": "finish", "summary": "done"},
)
QUICK = loop_script("quick", {"tool": "finish", "summary": "done"})


def test_approve_unblocks_a_waiting_action_and_others_go_on_meanwhile() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, [*ASKS, *QUICK]) as rig:
            await rig.submit(Job("asks", "asks; append a line", workspace))
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_WAITING))
            await rig.submit(Job("quick", "quick; nothing to do", workspace))
            await until(lambda: state_is(rig, "quick", agent_pb2.TASK_STATE_SOLVED))
            assert not (workspace / "log").exists()
            code, out = await ctl(home, "approvals", "ls", "--json")
            assert code == 0
            question = json.loads(out)["interventions"][0]
            assert "echo approved >> log" in question["canonical"]
            assert (await ctl(home, "approve", question["id"]))[0] == 0
            tasks = await rig.all_ended(2)
            assert tasks["asks"].state == agent_pb2.TASK_STATE_SOLVED
            assert not tasks["asks"].verified
            assert (workspace / "log").read_text() == "approved\n"
            assert (await ctl(home, "approve", question["id"]))[0] == 4
            assert (workspace / "log").read_text() == "approved\n"

    run(work)


async def state_is(rig: Rig, task_id: str, wanted: int) -> bool:
    tasks = await rig.tasks()
    return task_id in tasks and tasks[task_id].state == wanted


def test_a_rejected_action_is_an_observation_and_the_reason_reaches_the_model() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, ASKS) as rig:
            await rig.submit(Job("asks", "asks; append a line", workspace))
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_WAITING))
            approval = (await rig.tasks())["asks"].waiting_approval_id
            assert (await ctl(home, "reject", approval, "-r", "not on a Sunday"))[0] == 0
            await rig.all_ended(1)
            finished = [event for event in await rig.events() if event.kind == "ActionFinished"]
            assert b'"state":"refused"' in finished[0].payload
            assert b"not on a Sunday" in finished[0].payload
            assert not (workspace / "log").exists()

    run(work)


def test_a_goal_that_the_operator_did_not_register_can_do_nothing() -> None:
    async def work(home: Path, workspace: Path) -> None:
        (workspace / "secret").write_text("s")
        script = loop_script("sly", {"tool": "read_file", "path": "secret"}, {"tool": "finish", "summary": "I read it"})
        async with Rig(home, script) as rig:
            await rig.agent.Submit(
                agent_pb2.SubmitRequest(goal_id="sly", goal="sly; read", workspace=str(workspace)), timeout=20
            )
            await rig.all_ended(1)
            finished = [event for event in await rig.events() if event.kind == "ActionFinished"]
            assert b'"state":"refused"' in finished[0].payload

    run(work)


def test_a_polite_stop_saves_a_checkpoint_and_the_next_start_goes_on_from_it() -> None:
    async def work(home: Path, workspace: Path) -> None:
        rig = Rig(home, [*ASKS, *QUICK])
        async with rig:
            await rig.submit(Job("asks", "asks; append a line", workspace))
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_WAITING))
            before = await rig.events()
        async with Rig(home, [*ASKS, *QUICK], approve=lambda _: True) as again:
            listed = await again.checkpoint.List(checkpoint_pb2.ListRequest(session_id="main"), timeout=20)
            newest = listed.checkpoints[0]
            assert (newest.sequence, newest.level) == (len(before), checkpoint_pb2.LEVEL_SESSION)
            await again.all_ended(1)
            after = await again.events()
            assert after[: len(before)] == before
            assert (workspace / "log").read_text() == "approved\n"
            assert folded(after).tasks["asks"].phase == "solved"
            assert len(effect_ids(after)) == len(set(effect_ids(after)))
            log = (home / "log" / "agent.log").read_text()
            assert f"at event {len(before)} from {newest.checkpoint_id}" in log

    run(work)


@pytest.mark.parametrize("content", [b"abc\xf0\x9f\x98", b"\xff" * 9, b"x" * 200_000])
def test_a_target_that_could_not_be_put_back_is_left_alone(content: bytes) -> None:
    async def work(home: Path, workspace: Path) -> None:
        (workspace / "part").write_bytes(content)
        reply = {"tool": "write_file", "path": "part", "content": "new\n"}
        async with Rig(home, [{"reply": reply}]) as rig:
            await rig.submit(Job("binary", "binary; make it new", workspace, ("false",), ("part",), max_attempts=2))
            task = (await rig.all_ended(1))["binary"]
        assert (task.state, "cannot be rewritten whole" in task.sentence) == (agent_pb2.TASK_STATE_FAILED, True)
        assert (workspace / "part").read_bytes() == content

    run(work)


def test_a_commit_holds_the_targets_and_nothing_else_that_was_staged_or_changed() -> None:
    async def work(home: Path, workspace: Path) -> None:
        def git(*words: str) -> str:
            argv = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", *words]
            return subprocess.run(argv, cwd=workspace, capture_output=True, text=True, check=True).stdout

        (workspace / "part.txt").write_text("old\n")
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "begin"]):
            git(*words)
        (workspace / "staged").write_text("the operator's\n")
        git("add", "staged")
        reply = {"tool": "write_file", "path": "part.txt", "content": "new\n"}
        async with Rig(home, [{"when": {"contains": ["dirty;"]}, "reply": reply}]) as rig:
            check = ("grep", "-q", "new", "part.txt")
            await rig.submit(Job("dirty", "dirty; make it new", workspace, check, ("part.txt",), commit=True))
            assert (await rig.all_ended(1))["dirty"].commit == git("rev-parse", "HEAD").strip()
        assert git("show", "--name-only", "--format=").split() == ["part.txt"]
        assert git("diff", "--cached", "--name-only").split() == ["staged"]

    run(work)


def test_a_recovering_agent_says_so_instead_of_having_no_tasks() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, ASKS) as rig:
            await rig.submit(Job("asks", "asks; append a line", workspace))
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_WAITING))
            rig.stack.kill("checkpointd", signal.SIGSTOP)
            try:
                before = rig.stack.pid_of("agent")
                rig.stack.kill("agent")
                await until(lambda: is_ready_again(rig, before))
                for argv in (["tasks", "ls"], ["tasks", "show", "asks"], ["tasks", "cancel", "asks"]):
                    code, out = await ctl(home, *argv)
                    assert (code, "still recovering its session" in out) == (3, True), out
            finally:
                rig.stack.kill("checkpointd", signal.SIGCONT)
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_WAITING))

    async def is_ready_again(rig: Rig, before: int | None) -> bool:
        return rig.stack.pid_of("agent") not in (None, before) and rig.stack.is_ready("agent")

    run(work)


def test_cancel_and_retry_through_the_command_line() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, ASKS) as rig:
            await rig.submit(Job("asks", "asks; append a line", workspace))
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_WAITING))
            assert (await ctl(home, "tasks", "retry", "asks"))[0] == 4
            question = (await rig.tasks())["asks"].waiting_approval_id
            assert (await ctl(home, "tasks", "cancel", "as"))[0] == 0
            assert (await rig.tasks())["asks"].state == agent_pb2.TASK_STATE_CANCELLED
            assert (await ctl(home, "approve", question))[0] == 4  # withdrawn with the task
            assert not (workspace / "log").exists()
            assert (await ctl(home, "tasks", "retry", "asks"))[0] == 0
            await until(lambda: state_is(rig, "asks", agent_pb2.TASK_STATE_SOLVED))
            ids = effect_ids(await rig.events())
            assert len(ids) == len(set(ids))

    run(work)


def test_pause_holds_the_next_step_and_resume_lets_it_go() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, QUICK) as rig:
            assert (await ctl(home, "pause"))[0] == 0
            await until(lambda: sentence_has(rig, "idle"))
            await rig.submit(Job("quick", "quick; nothing to do", workspace))
            await until(lambda: sentence_has(rig, "paused by the operator"))
            assert not await state_is(rig, "quick", agent_pb2.TASK_STATE_SOLVED)
            assert (await ctl(home, "resume"))[0] == 0
            await until(lambda: state_is(rig, "quick", agent_pb2.TASK_STATE_SOLVED))

    async def sentence_has(rig: Rig, words: str) -> bool:
        return words in rig.stack.sentence_of("agent")

    run(work)


def test_a_second_agent_takes_over_the_session_and_the_first_one_stops_writing() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, QUICK) as rig:
            await rig.tasks()  # it has opened its session
            opened = await rig.checkpoint.OpenSession(
                checkpoint_pb2.OpenSessionRequest(session_id="main", writer_id="test"), timeout=20
            )
            assert opened.epoch > 1
            with pytest.raises(grpc.aio.AioRpcError, match="took over session main"):
                await rig.submit(Job("quick", "quick; x", workspace))
            assert "took over session main" in await asyncio.wait_for(rig.stack.failed(), 20)

    run(work)


def test_unusable_replies_end_as_not_solved_never_as_a_crash() -> None:
    async def work(home: Path, workspace: Path) -> None:
        (workspace / "a.txt").write_text("old\n")
        script = [
            {"when": {"contains": ["bad;"]}, "reply": '{"tool": "write_file", "path": "a.txt", "content": "\\ud800"}'}
        ]
        async with Rig(home, script, settings=SETTINGS) as rig:
            await rig.submit(Job("bad", "bad; change a.txt", workspace, ("false",), targets=("a.txt",), max_attempts=3))
            tasks = await rig.all_ended(1)
            assert tasks["bad"].state == agent_pb2.TASK_STATE_FAILED
            assert rig.stack.restarts["agent"] == 0
        assert (workspace / "a.txt").read_text() == "old\n"

    run(work)


def test_git_commits_what_passed_and_names_itself_as_the_author() -> None:
    async def work(home: Path, workspace: Path) -> None:
        subprocess.run(["git", "init", "-q", "-b", "main"], cwd=workspace, check=True)
        subprocess.run(["git", "config", "user.name", "Olga Operator"], cwd=workspace, check=True)
        subprocess.run(["git", "config", "user.email", "olga@localhost"], cwd=workspace, check=True)
        (workspace / "a.txt").write_text("old\n")
        script = [{"reply": {"tool": "write_file", "path": "a.txt", "content": "new\n"}}]
        async with Rig(home, script) as rig:
            await rig.submit(
                Job("c", "make it new", workspace, ("grep", "-q", "new", "a.txt"), targets=("a.txt",), commit=True)
            )
            tasks = await rig.all_ended(1)
            assert tasks["c"].verified
        log = subprocess.run(
            ["git", "log", "--format=%H %an %s"], cwd=workspace, capture_output=True, text=True, check=True
        ).stdout
        assert log.strip() == f"{tasks['c'].commit} Selfware make it new"

    run(work)
