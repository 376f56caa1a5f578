"""System checkpoints by a real oversightd and checkpointd: files and conversation saved and put back together."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2, oversight_pb2_grpc
from selfware_common.rpc import oversight_pb2 as pb
from selfware_common.state import saving
from selfware_common.state.sections import SESSION, WORKSPACE, SectionWriter, read_sections
from selfware_common.trees import tree_digest, write_tree
from selfware_tool.probe import probe
from tests.process.test_checkpointd import Server
from tests.process.test_oversightd import DONE, RUNNING, TWO_LINES, WAITING, Stack, until

SANDBOX = probe()
needs_sandbox = pytest.mark.skipif(not SANDBOX.available, reason=f"no sandbox here: {SANDBOX.sentence} {SANDBOX.hint}")
STATE = b'{"tasks": {}}'
SESSION_LEVEL, SYSTEM = 3, 4


class Whole:
    """Both daemons in one home, and one session with a saved state."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stack = Stack(home)
        self.workspace = self.stack.workspace
        self.memory = Server(home)
        self.epoch = self.memory.open().epoch
        self.bulk = home / "run/checkpointd/bulk.sock"
        self.stack.start()
        self.stack.goal()

    def end(self) -> None:
        if self.stack.process is not None:
            self.stack.stop()
        self.memory.end()

    def put(self, state: bytes = STATE, level: int = SESSION_LEVEL) -> str:
        with tempfile.TemporaryFile() as file:
            file.write(state)
            file.flush()
            return saving.put_file(self.bulk, "s", self.epoch, level, 7, file.fileno()).checkpoint_id

    def state_of(self, checkpoint_id: str) -> bytes:
        return bytes(saving.get(self.bulk, checkpoint_id)[1])

    def capture(self, **more: Any) -> pb.CaptureReply:
        about = {
            "session_id": "s", "epoch": self.epoch, "workspaces": [str(self.workspace)], "label": "by a test", **more,
        }  # fmt: skip
        about["checkpoint_id"] = more.get("checkpoint_id") or self.put()
        with clients.sync_channel(self.home / "run/oversightd/agent.sock") as channel:
            stub = oversight_pb2_grpc.OversightStub(channel)
            return stub.Capture(pb.CaptureRequest(**about), timeout=60, wait_for_ready=True)

    def refused(self, **more: Any) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.capture(**more)
        return caught.value

    def restore(self, checkpoint_id: str, **body: Any) -> tuple[int, Any]:
        return self.stack.post(f"/checkpoints/{checkpoint_id}/restore", **body)

    def pause(self) -> None:
        assert self.stack.post("/pause")[0] == 200

    def audit(self, kind: str) -> list[dict[str, Any]]:
        rows = self.stack.get("/audit?limit=1000")[1]["rows"]
        return [row["body"] for row in rows if row["kind"] == kind]


@pytest.fixture
def whole() -> Iterator[Whole]:
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/var/tmp") as directory:
        whole = Whole(Path(directory))
        try:
            yield whole
        finally:
            whole.end()
        assert "Traceback" not in whole.stack.errors.read_text()


def fill(root: Path) -> None:
    """Everything that a workspace may hold."""
    (root / "src/deep").mkdir(parents=True)
    (root / "src/deep/module.py").write_text("x = 1\n")
    (root / "src/program").write_text("#!/bin/sh\n")
    (root / "src/program").chmod(0o755)
    (root / "secret").write_text("only its owner's\n")
    (root / "secret").chmod(0o600)
    (root / "link").symlink_to("src/deep/module.py")
    (root / "out").symlink_to("/etc/passwd")
    (root / "gone").mkdir()
    (root / "gone/file").write_text("to be deleted\n")
    (root / "shut").mkdir()
    (root / "shut/inner").write_text("inner\n")
    (root / "shut").chmod(0o500)
    (root / "big").write_bytes(os.urandom(3_000_000))
    os.mkfifo(root / "pipe")
    with open(os.fsencode(root) + b"/\xff\x1b[2J", "wb") as file:
        file.write(b"a name that is no text")


def wreck(root: Path) -> None:
    """Edit, delete, replace, chmod, add."""
    (root / "src/deep/module.py").write_text("x = 2\n")
    (root / "src/program").chmod(0o644)
    (root / "secret").unlink()
    (root / "gone/file").unlink()
    (root / "gone").rmdir()
    (root / "gone").write_text("a file where a directory was\n")
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    (root / "shut").chmod(0o700)
    (root / "new/deeper").mkdir(parents=True)
    (root / "new/deeper/untracked").write_text("new\n")
    (root / "pipe").unlink()
    with (root / "big").open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"changed")


def test_a_restore_makes_the_workspace_what_it_was(whole: Whole) -> None:
    fill(whole.workspace)
    before = tree_digest(whole.workspace)
    captured = whole.capture()
    wreck(whole.workspace)
    assert tree_digest(whole.workspace) != before
    whole.pause()
    status, told = whole.restore(captured.checkpoint_id, dry_run=True)
    assert status == 200, told
    assert tree_digest(whole.workspace) != before, "a dry run changes nothing"
    (planned,) = told["workspaces"]
    assert planned["deleted"] == {"count": 1, "paths": ["new"]}
    assert {"secret", "pipe"} <= set(planned["created"]["paths"])
    assert {"big", "src/program", "link", "shut"} <= set(planned["changed"]["paths"])
    status, told = whole.restore(captured.checkpoint_id)
    assert status == 200, told
    assert tree_digest(whole.workspace) == before
    assert (told["checkpoint_id"], told["session_id"], told["dry_run"]) == (captured.checkpoint_id, "s", False)
    assert whole.restore(captured.checkpoint_id)[1]["workspaces"][0]["changed"]["count"] == 0, "again changes nothing"
    assert tree_digest(whole.workspace) == before
    assert [row["uid"] for row in whole.audit("restored")] == [os.getuid()] * 2
    assert whole.audit("captured")[0]["checkpoint_id"] == captured.checkpoint_id


def test_the_checkpoint_holds_the_state_and_every_workspace(whole: Whole) -> None:
    fill(whole.workspace)
    captured = whole.capture()
    state = whole.state_of(captured.checkpoint_id)
    with tempfile.TemporaryFile() as file:
        file.write(state)
        session, tree = read_sections(file, "it")
    assert (session.kind, session.name, state[: session.length]) == (SESSION, "s", STATE)
    assert (tree.kind, tree.name) == (WORKSPACE, str(whole.workspace))
    expected = bytearray()
    write_tree(whole.workspace, expected.extend)
    assert state[tree.offset : tree.offset + tree.length] == bytes(expected)
    info = saving.get(whole.bulk, captured.checkpoint_id)[0]
    assert (info.level, info.sequence, info.label, info.state_bytes) == (SYSTEM, 7, "by a test", captured.state_bytes)


def test_what_cannot_be_saved_is_said(whole: Whole) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(whole.workspace / "sock\n"))
        captured = whole.capture()
    assert list(captured.notes) == [f"{whole.workspace}: 1 sockets or devices left out (sock\\n)"]


@pytest.mark.parametrize("name", ["/etc", "", "not/absolute"])
def test_only_workspaces_of_goals_are_saved(whole: Whole, name: str) -> None:
    error = whole.refused(workspaces=[str(whole.workspace), name])
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "is not the workspace of a registered goal" in error.details()
    assert whole.audit("captured") == []


def test_only_a_state_of_the_session_is_taken(whole: Whole) -> None:
    assert whole.refused(session_id="other").code() == grpc.StatusCode.INVALID_ARGUMENT
    assert whole.refused(checkpoint_id="ckpt-00099999").code() == grpc.StatusCode.NOT_FOUND
    system = whole.capture().checkpoint_id
    assert "a system checkpoint itself" in whole.refused(checkpoint_id=system).details()
    error = whole.refused(epoch=whole.epoch + 1)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error


@needs_sandbox
def test_while_an_action_runs_nothing_is_saved(whole: Whole) -> None:
    stream = whole.stack.perform("e-1")
    until(lambda: whole.stack.lines() == ["begin"])
    error = whole.refused()
    assert error.code() == grpc.StatusCode.ABORTED
    assert "action e-1 is running" in error.details()
    assert "Save the state again" in error.details()
    stream.end()
    assert whole.capture().checkpoint_id


@needs_sandbox
def test_a_state_that_does_not_know_of_an_end_is_not_saved_with_the_files(whole: Whole) -> None:
    waiting = whole.stack.perform("e-2", ["touch", "made"])
    waiting.wait_for(lambda update: update.state == WAITING)
    assert whole.capture(open_effects=["e-1", "e-2"]).checkpoint_id, "one is not known yet, one waits for a person"
    whole.stack.perform("e-1").end()
    error = whole.refused(open_effects=["e-1"])
    assert (error.code(), "e-1 is done" in error.details()) == (grpc.StatusCode.ABORTED, True)
    whole.stack.post("/interventions/appr-1/approve")
    waiting.end()
    assert whole.refused(open_effects=["e-2"]).code() == grpc.StatusCode.ABORTED


GATED = """
import os, sys
from selfware_oversightd import keepers
from selfware_oversightd.__main__ import main

original = keepers._argv
patch = sys.argv.pop(1)

def argv():
    *words, code = original()
    head, call = code.split("; from ")
    return [*words, head + "\\n" + patch + "\\nfrom " + call]

keepers._argv = argv
main()
"""
STOP = """
import os, time
def stop():
    with open({home!r} + "/keeper", "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists({home!r} + "/go"):
        time.sleep(0.005)
"""
PATCHES = {
    "capture": """
from selfware_tool import keeper
flush = keeper._Spool.flush
def stopping(self):
    stop()
    flush(self)
keeper._Spool.flush = stopping
""",
    "restore": """
from selfware_common.trees.restoring import _Restoring
put = _Restoring._put
def stopping(self, temporary, name):
    put(self, temporary, name)
    stop()
_Restoring._put = stopping
""",
}


def gated(whole: Whole, which: str) -> None:
    """Restart oversightd with keepers that stop in the middle until the file ``go`` is there."""
    whole.stack.stop()
    whole.stack.start(program=("-c", GATED, STOP.format(home=str(whole.home)) + PATCHES[which]))


def in_background(call: Any) -> tuple[threading.Thread, list[Any]]:
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(call())
        except (grpc.RpcError, OSError, http.client.HTTPException) as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, told


def keeper_of(whole: Whole) -> int:
    path = whole.home / "keeper"
    return int(until(lambda: path.exists() and path.read_text()))


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@needs_sandbox
def test_what_is_approved_during_a_capture_begins_right_after_it(whole: Whole) -> None:
    (whole.workspace / "file").write_text("x")
    gated(whole, "capture")
    stream = whole.stack.perform("e-1", ["touch", "made"])
    stream.wait_for(lambda update: update.state == WAITING)
    thread, told = in_background(lambda: whole.capture(open_effects=["e-1", "e-2"]))
    keeper_of(whole)
    assert whole.stack.post("/interventions/appr-1/approve")[0] == 200
    allowed = whole.stack.perform("e-2", TWO_LINES)
    allowed.wait_for(lambda update: update.state == WAITING)
    assert whole.stack.get("/status")[1]["running"] == []
    assert not told
    (whole.home / "go").touch()
    assert (stream.end().state, allowed.end().state) == (DONE, DONE)
    assert any(update.state == RUNNING for update in allowed.updates)
    thread.join(30)
    assert isinstance(told[0], pb.CaptureReply), told
    state = whole.state_of(told[0].checkpoint_id)
    assert b"made" not in state, "the files are those from before"


@pytest.mark.parametrize("victim", ["keeper", "oversightd"])
def test_a_capture_that_is_killed_leaves_nothing_and_may_be_repeated(whole: Whole, victim: str) -> None:
    fill(whole.workspace)
    before = tree_digest(whole.workspace)
    gated(whole, "capture")
    base = whole.put()
    thread, told = in_background(lambda: whole.capture(checkpoint_id=base))
    pid = keeper_of(whole)
    if victim == "keeper":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            (whole.home / "go").touch()  # it may have been asked again by the channel: that one succeeds
    else:
        whole.stack.stop()
    thread.join(60)
    until(lambda: is_gone(pid))
    if victim == "oversightd":
        assert isinstance(told[0], grpc.RpcError)
        whole.stack.start()
        assert whole.audit("captured") == []
    captured = told[0] if isinstance(told[0], pb.CaptureReply) else whole.capture(checkpoint_id=base)
    assert len(whole.audit("captured")) == 1
    wreck(whole.workspace)
    whole.pause()
    assert whole.restore(captured.checkpoint_id)[0] == 200
    assert tree_digest(whole.workspace) == before


DYING = """
import os, signal, sys
from selfware_oversightd.captures import Captures
from selfware_oversightd.__main__ import main

def die(*ignored, **more):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Captures, sys.argv.pop(1), die)
main()
"""


@pytest.mark.parametrize(("point", "saved"), [("_record", 0), ("_name", 1)])
def test_no_checkpoint_is_ever_saved_that_cannot_be_restored(whole: Whole, point: str, saved: int) -> None:
    """Killed before the trees are in the ledger, there is none; killed before it is named there, it is a good one."""
    fill(whole.workspace)
    before = tree_digest(whole.workspace)
    whole.stack.stop()
    whole.stack.start(program=("-c", DYING, point))
    assert isinstance(whole.refused(), grpc.RpcError)
    assert whole.stack.process is not None
    assert whole.stack.process.wait(20) == -signal.SIGKILL
    request = checkpoint_pb2.ListRequest(session_id="s")
    listed = whole.memory.stub.List(request, timeout=20).checkpoints
    found = [one.checkpoint_id for one in listed if one.level == SYSTEM]
    assert len(found) == saved
    whole.stack.start()
    wreck(whole.workspace)
    whole.pause()
    for checkpoint_id in found:
        assert whole.restore(checkpoint_id)[0] == 200
        assert tree_digest(whole.workspace) == before


@pytest.mark.parametrize("victim", ["keeper", "oversightd"])
def test_a_restore_that_is_killed_is_repeated_and_ends_with_the_same_tree(whole: Whole, victim: str) -> None:
    fill(whole.workspace)
    before = tree_digest(whole.workspace)
    captured = whole.capture()
    wreck(whole.workspace)
    wrecked = tree_digest(whole.workspace)
    whole.pause()
    gated(whole, "restore")
    thread, told = in_background(lambda: whole.restore(captured.checkpoint_id))
    pid = keeper_of(whole)
    if victim == "keeper":
        os.kill(pid, signal.SIGKILL)
    else:
        whole.stack.stop()
    thread.join(30)
    until(lambda: is_gone(pid))
    half = tree_digest(whole.workspace)
    assert half not in {before, wrecked}, "it was in the middle"
    if victim == "keeper":
        assert (told[0][0], told[0][1]["error"]["kind"]) == (503, "unavailable")
        assert "broke off" in told[0][1]["error"]["sentence"]
        whole.stack.stop()
    whole.stack.start()
    assert whole.stack.get("/status")[1]["paused"], "a pause outlives us"
    assert [len(whole.audit(kind)) for kind in ("restoring", "restored")] == [1, 0]
    assert whole.restore(captured.checkpoint_id)[0] == 200
    assert tree_digest(whole.workspace) == before
    assert not [name for name in os.listdir(whole.workspace) if name.startswith(".selfware-")]


def test_a_polite_stop_does_not_wait_for_a_restore(whole: Whole) -> None:
    fill(whole.workspace)
    before = tree_digest(whole.workspace)
    captured = whole.capture()
    wreck(whole.workspace)
    whole.pause()
    gated(whole, "restore")
    thread, told = in_background(lambda: whole.restore(captured.checkpoint_id))
    pid = keeper_of(whole)
    assert whole.stack.stop(signal.SIGTERM) == 0
    thread.join(30)
    until(lambda: is_gone(pid))
    assert (told[0][0], "stopped in the middle" in told[0][1]["error"]["sentence"]) == (503, True), told
    whole.stack.start()
    assert whole.restore(captured.checkpoint_id)[0] == 200
    assert tree_digest(whole.workspace) == before


def test_a_restore_needs_a_pause(whole: Whole) -> None:
    captured = whole.capture()
    status, told = whole.restore(captured.checkpoint_id)
    assert (status, told["error"]["kind"]) == (409, "conflict")
    assert "selfwarectl pause" in told["error"]["hint"]
    assert whole.restore(captured.checkpoint_id, dry_run=True)[0] == 200


@needs_sandbox
def test_a_restore_waits_for_no_action(whole: Whole) -> None:
    captured = whole.capture()
    stream = whole.stack.perform("e-1")
    until(lambda: whole.stack.lines() == ["begin"])
    whole.pause()
    status, told = whole.restore(captured.checkpoint_id)
    assert (status, "action e-1 is running" in told["error"]["sentence"]) == (409, True)
    stream.end()
    assert whole.restore(captured.checkpoint_id)[0] == 200
    assert whole.stack.lines() == []


@needs_sandbox
def test_what_waited_for_a_person_is_undone_by_a_restore(whole: Whole) -> None:
    stream = whole.stack.perform("e-1", ["touch", "made"], session_id="s")
    approved = whole.stack.perform("e-2", ["touch", "also"], session_id="s")
    other = whole.stack.perform("e-3", ["touch", "others"], session_id="another")
    for one in (stream, approved, other):
        one.wait_for(lambda update: update.state == WAITING)
    captured = whole.capture(open_effects=["e-1", "e-2", "e-3"])
    whole.pause()
    assert whole.stack.post("/interventions/appr-2/approve")[0] == 200
    assert whole.restore(captured.checkpoint_id, dry_run=True)[1]["undone"] == ["e-1", "e-2"]
    status, told = whole.restore(captured.checkpoint_id)
    assert (status, told["undone"]) == (200, ["e-1", "e-2"])
    sentence = f"undone: the session was restored to {captured.checkpoint_id}"
    for one in (stream, approved):
        assert (one.end().state, one.end().sentence) == (pb.EFFECT_STATE_REFUSED, sentence)
    status, told = whole.stack.post("/interventions/appr-1/approve")
    assert (status, "it is withdrawn already" in told["error"]["sentence"]) == (409, True)
    whole.stack.post("/resume")
    assert whole.stack.post("/interventions/appr-3/approve")[0] == 200
    assert other.end().state == DONE
    assert sorted(os.listdir(whole.workspace)) == [".git", "others"]


def forge(whole: Whole, tree: Path, name: str, session: bytes = STATE) -> str:
    """A system checkpoint as anybody could put it who may write checkpoints."""
    with tempfile.TemporaryFile() as file:
        writer = SectionWriter(file)
        file.write(session)
        writer.end(SESSION, "s")
        write_tree(tree, file.write)
        writer.end(WORKSPACE, name)
        writer.finish()
        file.seek(0)
        return whole.put(file.read(), SYSTEM)


def test_a_tree_that_was_made_up_is_not_restored(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("#!/bin/sh\n")
    before = tree_digest(whole.workspace)
    whole.pause()
    for dry_run in (True, False):
        status, told = whole.restore(forge(whole, tmp_path, str(whole.workspace)), dry_run=dry_run)
        assert (status, told["error"]["kind"]) == (403, "refused")
        assert "were not saved by selfware-oversightd" in told["error"]["sentence"]
    assert tree_digest(whole.workspace) == before
    assert whole.audit("restoring") == []


def test_a_tree_of_ours_is_restored_only_where_it_was_taken(whole: Whole) -> None:
    (whole.workspace / "file").write_text("mine\n")
    whole.capture()
    whole.pause()
    other = whole.home / "other"
    other.mkdir()
    assert whole.restore(forge(whole, whole.workspace, str(other)))[0] == 403
    assert list(other.iterdir()) == []


def test_a_link_in_the_place_of_a_workspace_is_neither_saved_nor_restored_through(whole: Whole) -> None:
    (whole.workspace / "file").write_text("mine\n")
    saved = whole.capture()
    other = whole.home / "other"
    other.mkdir()
    (other / "theirs").write_text("theirs\n")
    whole.workspace.rename(whole.home / "moved")
    whole.workspace.symlink_to(other)
    notes = whole.capture().notes
    assert notes == [f"{whole.workspace}: there is no such directory"]
    whole.pause()
    status, answer = whole.restore(saved.checkpoint_id)
    assert (status, "by now" in answer["error"]["sentence"]) == (400, True), answer
    assert [path.name for path in other.iterdir()] == ["theirs"]


def test_a_path_of_a_goal_is_found_only_where_the_operator_registered_it(whole: Whole) -> None:
    """The agent asks; what leads anywhere else stays as it was given, and every action there is refused."""
    link, other = whole.home / "link", whole.home / "other"
    other.mkdir()
    link.symlink_to(whole.workspace)
    with clients.sync_channel(whole.home / "run/oversightd/agent.sock") as channel:
        stub = oversight_pb2_grpc.OversightStub(channel)

        def found(workspace: str, task_id: str = "t") -> str:
            return stub.FindWorkspace(pb.FindWorkspaceRequest(task_id=task_id, workspace=workspace)).workspace

        assert found(str(link)) == str(whole.workspace)
        assert found(str(link), "nobody") == str(link)
        link.unlink()
        for elsewhere in (other, whole.home / "state", whole.home, Path("/etc")):
            link.symlink_to(elsewhere)
            assert found(str(link)) == str(link)
            assert whole.stack.post("/goals", goal_id="t", workspace=str(link), check=["true"])[0] in (400, 409)
            link.unlink()
        assert found("../work") == "../work"
        assert found("/nul\0") == "/nul\0"


def test_a_tree_whose_contents_were_swapped_under_its_hash_changes_nothing(whole: Whole) -> None:
    """The hash in the ledger is the right one; a byte of a file's content is not."""
    (whole.workspace / "file").write_text("right\n")
    state = whole.state_of(whole.capture().checkpoint_id)
    assert state.count(b"right\n") == 1
    forged = whole.put(state.replace(b"right\n", b"wrong\n"), SYSTEM)
    (whole.workspace / "file").write_text("now\n")
    whole.pause()
    status, told = whole.restore(forged)
    assert (status, told["error"]["kind"]) == (500, "damaged"), told
    assert (whole.workspace / "file").read_text() == "now\n"


@pytest.mark.parametrize("state", [STATE, b"", os.urandom(1000)])
def test_a_state_without_sections_is_said_to_be_none(whole: Whole, state: bytes) -> None:
    whole.pause()
    status, told = whole.restore(whole.put(state, SYSTEM))
    assert (status, "is not what a system checkpoint holds" in told["error"]["sentence"]) == (409, True), told
    assert whole.restore("ckpt-00099999")[0] == 404


def test_a_fork_goes_into_another_directory_and_leaves_the_session_alone(whole: Whole) -> None:
    fill(whole.workspace)
    before = tree_digest(whole.workspace)
    captured = whole.capture()
    wreck(whole.workspace)
    wrecked = tree_digest(whole.workspace)
    fork = whole.home / "fork"
    where = {str(whole.workspace): str(fork)}
    assert whole.restore(captured.checkpoint_id, into=where)[0] == 400, "it must be there already"
    fork.mkdir()
    assert whole.restore(captured.checkpoint_id, into={"/elsewhere": str(fork)})[0] == 400
    assert whole.restore(captured.checkpoint_id, into={str(whole.workspace): str(whole.home / "state")})[0] == 400
    assert whole.restore(captured.checkpoint_id, into={str(whole.workspace): 7})[0] == 400
    status, told = whole.restore(captured.checkpoint_id, into=where)
    assert (status, told["undone"]) == (200, [])
    assert (tree_digest(fork), tree_digest(whole.workspace)) == (before, wrecked)
    assert told["workspaces"][0]["directory"] == str(fork)


def test_a_fork_into_a_workspace_needs_a_pause_like_any_restore(whole: Whole) -> None:
    captured, other = whole.capture(), whole.home / "other"
    other.mkdir()
    (other / "file").write_text("of another session\n")
    assert whole.stack.post("/goals", goal_id="second", workspace=str(other), check=["true"])[0] == 201
    inside = other / "inside"
    inside.mkdir()
    for target in (other, inside):
        status, told = whole.restore(captured.checkpoint_id, into={str(whole.workspace): str(target)})
        assert (status, "may begin at any time" in told["error"]["sentence"]) == (409, True)
    assert (other / "file").exists()


def test_a_workspace_that_is_no_more_does_not_keep_the_others_from_being_saved(whole: Whole) -> None:
    other = whole.home / "other"
    other.mkdir()
    assert whole.stack.post("/goals", goal_id="second", workspace=str(other), check=["true"])[0] == 201
    other.rmdir()
    captured = whole.capture(workspaces=[str(other), str(whole.workspace)])
    assert list(captured.notes) == [f"{other}: there is no such directory"]
    whole.pause()
    assert whole.restore(captured.checkpoint_id)[0] == 200


def test_all_trees_are_looked_at_before_the_first_is_written(whole: Whole) -> None:
    other = whole.home / "other"
    other.mkdir()
    body = {"goal_id": "second", "workspace": str(other), "check": ["true"]}
    assert whole.stack.post("/goals", **body)[0] == 201
    (whole.workspace / "file").write_text("one\n")
    (other / "file").write_text("two, to be damaged\n")
    state = whole.state_of(whole.capture(workspaces=[str(whole.workspace), str(other)]).checkpoint_id)
    forged = whole.put(state.replace(b"to be damaged", b"was damaged!!"), SYSTEM)
    (whole.workspace / "file").write_text("now\n")
    whole.pause()
    assert whole.restore(forged)[0] == 500
    assert (whole.workspace / "file").read_text() == "now\n"
    assert whole.restore(whole.put(state, SYSTEM))[0] == 200, "the same bytes under another number are ours"
    assert (whole.workspace / "file").read_text() == "one\n"


def test_checkpointd_away_is_said_and_passes(whole: Whole) -> None:
    base = whole.put()
    whole.memory.end()
    error = whole.refused(checkpoint_id=base)
    assert (error.code(), "Cannot reach checkpointd" in error.details()) == (grpc.StatusCode.UNAVAILABLE, True)
    whole.memory = Server(whole.home)
    whole.epoch = whole.memory.open().epoch
    assert whole.capture(checkpoint_id=base).checkpoint_id


def answers_meanwhile(whole: Whole, call: Any) -> tuple[Any, dict[str, float]]:
    """The call's result; how long it took, and the longest that /health took meanwhile."""
    thread, told = in_background(call)
    waits, began = [0.0], time.monotonic()
    while thread.is_alive():
        asked = time.monotonic()
        assert whole.stack.get("/health")[0] == 200
        waits.append(time.monotonic() - asked)
        time.sleep(0.005)
    seconds = time.monotonic() - began
    assert len(waits) > 10, "it was asked all the time"
    assert max(waits) < seconds / 2, (max(waits), seconds)
    return told[0], {"seconds": round(seconds, 3), "longest_health_seconds": round(max(waits), 4)}


def test_oversightd_answers_while_a_large_workspace_is_saved_and_put_back(whole: Whole) -> None:
    mib = 1024 * 1024
    for number in range(20):
        (whole.workspace / f"large{number}").write_bytes(os.urandom(10 * mib))
    for number in range(2000):
        (whole.workspace / f"small{number}").write_bytes(os.urandom(500))
    captured, first = answers_meanwhile(whole, whole.capture)
    assert isinstance(captured, pb.CaptureReply), captured
    (whole.workspace / "small7").write_text("changed\n")
    before = tree_digest(whole.workspace)
    again, second = answers_meanwhile(whole, whole.capture)
    assert again.stored_bytes < captured.stored_bytes / 50
    for path in whole.workspace.iterdir():
        path.unlink()
    whole.pause()
    restored, third = answers_meanwhile(whole, lambda: whole.restore(again.checkpoint_id))
    assert restored[0] == 200, restored
    assert tree_digest(whole.workspace) == before
    print(json.dumps({"capture": first, "capture_again": second, "restore": third}))
