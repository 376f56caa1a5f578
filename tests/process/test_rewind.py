"""Going back, with the real command line: what the agent knew and its files together, undone again, and forked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from selfware_agent import past
from selfware_common import events
from selfware_common.rpc import agent_pb2, checkpoint_pb2
from selfware_common.state.wire import BULK_SOCKET
from selfware_tool.probe import probe
from tests.process.test_agent import ctl, loop_script, run, state_is, until
from tests.rig import Job, Rig, effect_ids, tree_hash

pytestmark = pytest.mark.timeout(300)

SCRIPT = "cat one.txt >> two.txt; rm one.txt; ln -s two.txt link; chmod 600 two.txt; mkdir -p deep/er; touch deep/er/x"
WALK = loop_script(
    "walk",
    {"tool": "write_file", "path": "one.txt", "content": "first\n"},
    {"tool": "run_command", "script": SCRIPT},
    {"tool": "write_file", "path": "three.txt", "content": "third\n"},
    {"tool": "finish", "summary": "done"},
)


@pytest.fixture(autouse=True)
def sandbox() -> None:
    found = probe()
    if not found.available:
        pytest.skip(f"{found.sentence} {found.hint}")


async def ctl_json(home: Path, *argv: str) -> Any:
    code, out = await ctl(home, *argv, "--json")
    assert code == 0, out
    return json.loads(out)


async def waits_with_one_file(rig: Rig, workspace: Path) -> str:
    """The task has written a file and asks before it goes on; the id of a system checkpoint of that moment."""
    await rig.submit(Job("walk", "walk; a few steps", workspace))
    await until(lambda: state_is(rig, "walk", agent_pb2.TASK_STATE_WAITING))
    made = await ctl_json(rig.home, "checkpoints", "now", "--label", "one file")
    assert made["notes"] == []
    return str(made["checkpoint_id"])


async def approve_the_one_question(rig: Rig) -> str:
    questions: list[dict[str, Any]] = []

    async def asked() -> bool:
        questions[:] = (await rig.operator("GET", "/interventions?state=pending"))[1]["interventions"]
        return len(questions) == 1

    await until(asked)
    assert (await rig.operator("POST", f"/interventions/{questions[0]['id']}/approve", {}))[0] == 200
    return str(questions[0]["effect_id"])


def test_going_back_takes_files_and_knowledge_along_and_can_be_undone() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            then = await waits_with_one_file(rig, workspace)
            early = tree_hash(workspace)
            first_effect = await approve_the_one_question(rig)
            await rig.all_ended(1)
            late = tree_hash(workspace)
            assert early != late

            plan = await ctl_json(home, "restore", then, "--dry-run")
            assert plan["tasks"]["changed"][0]["from"]["state"] == "solved"
            assert plan["workspaces"][0]["deleted"]["count"] >= 3
            assert tree_hash(workspace) == late

            done = await ctl_json(home, "restore", then)
            assert tree_hash(workspace) == early
            assert not done["paused"]
            # It goes on from there: the action that had no outcome yet is asked about once more, as another one.
            second_effect = await approve_the_one_question(rig)
            assert second_effect != first_effect
            await rig.all_ended(1)
            assert tree_hash(workspace) == late
            ids = effect_ids(await rig.events())
            assert len(ids) == len(set(ids))

            code, said = await ctl(home, "checkpoints", "diff", then, done["saved_before"])
            assert code == 0
            assert "~ walk  running → solved" in said
            assert "+ three.txt" in said
            assert "- one.txt" in said

            assert (await ctl(home, "restore", done["saved_before"]))[0] == 0
            assert tree_hash(workspace) == late
            assert (await rig.tasks())["walk"].state == agent_pb2.TASK_STATE_SOLVED

    run(work)


@pytest.mark.parametrize("level", ["system", "session"])
def test_whoever_saves_what_is_saved_already_is_told_where_it_is_and_how_to_name_it(level: str) -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            await waits_with_one_file(rig, workspace)
            now = ("checkpoints", "now", "--level", level)
            first = await ctl_json(home, *now, "--label", "one file")
            code, said = await ctl(home, *now, "--label", "before the big step")
            assert code == 0
            assert said.startswith(f'nothing has changed since {first["checkpoint_id"]} (label "{first["label"]}", ')
            assert f"'selfwarectl checkpoints tag {first['checkpoint_id']} NAME'" in said
            again = await ctl_json(home, *now, "--label", "before the big step")
            assert (again["checkpoint_id"], again["unchanged"]) == (first["checkpoint_id"], True)
            assert again["label"] == first["label"]
            # The same label, or none, asks for nothing more.
            for label in (["--label", first["label"]], []):
                said = (await ctl(home, *now, *label))[1]
                assert "nothing has changed since" in said
                assert "checkpoints tag" not in said

            await approve_the_one_question(rig)
            await rig.all_ended(1)
            after = await ctl_json(home, *now, "--label", "before the big step")
            assert (after["unchanged"], after["label"]) == (False, "before the big step")

    run(work)


def test_what_waits_for_an_answer_is_withdrawn_when_it_is_undone() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            empty = (await ctl(home, "checkpoints", "now"))[0]
            assert empty == 4  # nothing has happened yet
            then = await waits_with_one_file(rig, workspace)
            old = (await rig.operator("GET", "/interventions?state=pending"))[1]["interventions"][0]
            await ctl_json(home, "restore", then, "--stay-paused")
            assert (await ctl(home, "approve", old["id"]))[0] == 4
            assert (await ctl(home, "resume"))[0] == 0
            assert await approve_the_one_question(rig) != old["effect_id"]
            await rig.all_ended(1)

    run(work)


def test_a_restore_is_remembered_by_an_agent_that_loses_its_checkpoints() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            then = await waits_with_one_file(rig, workspace)
            await approve_the_one_question(rig)
            await rig.all_ended(1)
            await ctl_json(home, "restore", then)
            await until(lambda: state_is(rig, "walk", agent_pb2.TASK_STATE_WAITING))
            before = (await rig.tasks())["walk"]
        lost = [pack for pack in (home / "state/checkpointd/checkpoints").glob("*.pack") if pack.stem > then]
        assert lost
        for pack in lost:
            pack.unlink()
        async with Rig(home, WALK) as rig:
            await until(lambda: state_is(rig, "walk", agent_pb2.TASK_STATE_WAITING))
            after = (await rig.tasks())["walk"]
            # Saved at once: from here on nobody needs the one that it went back to.
            newest = (await ctl_json(home, "checkpoints", "ls"))["checkpoints"][0]
            assert (newest["level"], newest["label"]) == ("session", f"restored from {then}")
            assert (after.steps, after.waiting_approval_id) == (before.steps, before.waiting_approval_id)
            await approve_the_one_question(rig)
            await rig.all_ended(1)

    run(work)


def test_a_fork_and_its_origin_go_on_independently() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            then = await waits_with_one_file(rig, workspace)
            early = tree_hash(workspace)
            forked = await ctl_json(home, "fork", then, "--name", "try")
            copy = workspace.parent / "w-try"
            assert tree_hash(copy) == early
            assert forked["goals"][0]["goal_id"] == "walk.try"
            assert list(await rig.tasks()) == ["walk"]
            assert (await ctl(home, "fork", then, "--name", "try"))[0] == 4

            await approve_the_one_question(rig)
            await rig.all_ended(1)
            late = tree_hash(workspace)
            assert tree_hash(copy) == early

            assert (await ctl(home, "recover", "--session", "try"))[0] == 0
            assert list(await rig.tasks()) == ["walk.try"]
            await approve_the_one_question(rig)
            tasks = await rig.all_ended(1)
            assert tasks["walk.try"].workspace == str(copy)
            assert (tree_hash(workspace), tree_hash(copy)) == (late, late)

            assert (await ctl(home, "recover", "--session", "nobody"))[0] == 1
            assert (await ctl(home, "recover", "--session", "main"))[0] == 0
            assert (await rig.tasks())["walk"].state == agent_pb2.TASK_STATE_SOLVED
        async with Rig(home, WALK) as rig:
            assert list(await rig.tasks()) == ["walk"]  # the one worked on last, not the youngest

    run(work)


def test_without_files_only_the_agent_goes_back() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            await waits_with_one_file(rig, workspace)
            made = await ctl_json(home, "checkpoints", "now", "--level", "session")
            await approve_the_one_question(rig)
            await rig.all_ended(1)
            late = tree_hash(workspace)
            code, said = await ctl(home, "restore", made["checkpoint_id"])
            assert code == 4
            assert "--no-files" in said
            await ctl_json(home, "restore", made["checkpoint_id"], "--no-files")
            assert tree_hash(workspace) == late
            await until(lambda: state_is(rig, "walk", agent_pb2.TASK_STATE_WAITING))

    run(work)


def test_what_waits_is_withdrawn_also_when_only_the_agent_goes_back() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            await waits_with_one_file(rig, workspace)
            made = await ctl_json(home, "checkpoints", "now", "--level", "session")
            old = (await rig.operator("GET", "/interventions?state=pending"))[1]["interventions"][0]
            # Approved during a pause: it is held back, and would begin beside the same action of the session restored.
            assert (await ctl(home, "pause"))[0] == 0
            assert (await ctl(home, "approve", old["id"]))[0] == 0
            await ctl_json(home, "restore", made["checkpoint_id"], "--no-files")
            assert (await ctl(home, "resume"))[0] == 0
            assert await approve_the_one_question(rig) != old["effect_id"]
            await rig.all_ended(1)
            assert (workspace / "two.txt").read_text() == "first\n"
            rows = (await rig.operator("GET", "/audit?limit=1000"))[1]["rows"]
            assert old["effect_id"] not in [row["body"]["effect_id"] for row in rows if row["kind"] == "began"]

    run(work)


def test_a_restore_during_a_pause_does_not_wait_for_what_the_pause_holds_back() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            then = await waits_with_one_file(rig, workspace)
            old = (await rig.operator("GET", "/interventions?state=pending"))[1]["interventions"][0]
            assert (await ctl(home, "pause"))[0] == 0
            assert (await ctl(home, "approve", old["id"]))[0] == 0
            await ctl_json(home, "restore", then)
            assert (await ctl(home, "resume"))[0] == 0
            assert await approve_the_one_question(rig) != old["effect_id"]
            await rig.all_ended(1)

    run(work)


def test_the_session_of_another_program_is_not_taken_up() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            await waits_with_one_file(rig, workspace)
            opened = await rig.checkpoint.OpenSession(
                checkpoint_pb2.OpenSessionRequest(session_id="notes", writer_id="notes")
            )
            event = checkpoint_pb2.Event(sequence=1, kind="Noted", payload=events.encode({"text": "milk"}))
            await rig.checkpoint.Append(
                checkpoint_pb2.AppendRequest(session_id="notes", epoch=opened.epoch, events=[event])
            )
            code, said = await ctl(home, "recover", "--session", "notes")
            assert code == 1
            assert "cannot be read" in said
            assert list(await rig.tasks()) == ["walk"]
        async with Rig(home, WALK) as rig:
            assert list(await rig.tasks()) == ["walk"]

    run(work)


def test_during_a_restore_everybody_is_told_no_instead_of_being_forgotten() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            then = await waits_with_one_file(rig, workspace)
            _, answer = await rig.operator("GET", "/interventions?state=pending")
            question = answer["interventions"][0]["id"]
            forked = await ctl_json(home, "fork", then, "--name", "try")
            assert (await rig.operator("POST", f"/checkpoints/{then}/restore-begins", {}))[0] == 200
            late = ["run", "late; nothing", "--workspace", str(workspace)]
            refused = {
                "No goal is taken": late,
                "No task is cancelled": ["tasks", "cancel", "walk"],
                "No task is tried again": ["tasks", "retry", "walk"],
                "No question is answered": ["approve", question],
                "No files are saved": ["checkpoints", "now"],
                "No other session is taken up": ["recover", "--session", forked["session_id"]],
                "Nothing goes on": ["resume"],
            }
            for what, argv in refused.items():
                code, said = await ctl(home, *argv)
                assert code == 4, (argv, said)
                assert f"{what} now: a restore to {then} is under way." in " ".join(said.split()), said
                assert f"selfwarectl restore {then}' finishes it" in " ".join(said.split()), said
            assert (await ctl(home, "reject", question))[0] == 4
            assert (await ctl(home, "checkpoints", "now", "--level", "session"))[0] == 0
            assert "restoring" in (await ctl(home, "status"))[1]
            # Somebody pauses meanwhile: that stands when the restore is done.
            assert (await ctl(home, "pause", "--reason", "lunch"))[0] == 0
            # The one that was begun above died; its command, given again, finishes it.
            assert (await ctl_json(home, "restore", then))["paused"]
            assert (await rig.operator("GET", "/status"))[1]["pause_reason"] == "lunch"
            assert (await ctl(home, "resume"))[0] == 0
            assert (await ctl(home, *late))[0] == 0
            assert len(await rig.tasks()) == 2

            assert (await rig.operator("POST", f"/checkpoints/{then}/restore-begins", {}))[0] == 200
            assert (await ctl(home, "resume", "--give-up-restore"))[0] == 0
            assert (await ctl(home, *late))[0] == 0

    run(work)


def test_no_goal_that_was_accepted_is_lost_by_a_restore_beside_it() -> None:
    async def work(home: Path, workspace: Path) -> None:
        finish = {"when": {"contains": ["beside;"]}, "reply": {"tool": "finish", "summary": "done"}}
        async with Rig(home, [*WALK, finish]) as rig:
            then = await waits_with_one_file(rig, workspace)
            accepted: list[str] = []
            done = asyncio.Event()

            async def submit_for_ever() -> int:
                number, refused = 0, 0
                while not done.is_set():
                    number += 1
                    try:
                        await rig.submit(Job(f"beside-{number}", "beside; nothing", workspace))
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
                        refused += 1
                        await asyncio.sleep(0.01)
                    else:
                        accepted.append(f"beside-{number}")
                        await asyncio.sleep(0.05)
                return refused

            submitting = asyncio.create_task(submit_for_ever())
            restored = await ctl_json(home, "restore", then)
            after = len(accepted)
            await until(lambda: grown(accepted, after))
            done.set()
            assert await submitting, "nobody was told no"
            bulk = rig.paths.socket_of("checkpointd", BULK_SOCKET)
            _, before = await asyncio.to_thread(past.read, bulk, home / "spool", restored["saved_before"], "")
            saved = set(before.tasks)
            known = set(await rig.tasks())
            assert [name for name in accepted if name not in saved | known] == []
            assert set(accepted) & saved
            assert set(accepted) & known

    async def grown(accepted: list[str], after: int) -> bool:
        return len(accepted) > after

    run(work)


def test_a_goal_given_through_a_link_works_where_the_link_led_when_it_was_given() -> None:
    async def work(home: Path, workspace: Path) -> None:
        async with Rig(home, WALK) as rig:
            link, other = home / "link", workspace.parent / "other"
            link.symlink_to(workspace)
            other.mkdir()
            (other / "theirs").write_text("theirs\n")
            untouched = tree_hash(other)
            then = await waits_with_one_file(rig, link)
            assert (await rig.tasks())["walk"].workspace == str(workspace)
            early = tree_hash(workspace)
            copies = home / "copies"
            copies.symlink_to(workspace.parent)
            forked = await ctl_json(home, "fork", then, "--name", "try", "--into", str(copies))
            assert forked["goals"][0]["workspace"] == str(workspace.parent / "w-try")

            link.unlink()
            link.symlink_to(other)
            await approve_the_one_question(rig)
            assert (await rig.all_ended(1))["walk"].state == agent_pb2.TASK_STATE_SOLVED
            assert tree_hash(workspace) != early
            await ctl_json(home, "restore", then)
            assert tree_hash(workspace) == early
            assert tree_hash(other) == untouched

    run(work)
