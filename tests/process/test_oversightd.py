"""selfware-oversightd as a real process: real sockets, a real sandbox, SIGKILL. Each action must run exactly once."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from selfware_common import clients
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc, oversight_pb2_grpc
from selfware_common.rpc import oversight_pb2 as pb
from selfware_tool.probe import probe

SANDBOX = probe()
pytestmark = pytest.mark.skipif(not SANDBOX.available, reason=f"no sandbox here: {SANDBOX.sentence} {SANDBOX.hint}")

TWO_LINES = ["sh", "-c", "echo begin >> lines; sleep 0.3; echo end >> lines"]
WAITING, RUNNING, DONE, REFUSED = (
    pb.EFFECT_STATE_WAITING,
    pb.EFFECT_STATE_RUNNING,
    pb.EFFECT_STATE_DONE,
    pb.EFFECT_STATE_REFUSED,
)


class OperatorConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("operator", timeout=20)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


class Stream:
    """One Perform call, read in a thread."""

    def __init__(self, call: Any) -> None:
        self.updates: list[pb.PerformUpdate] = []
        self.error: grpc.RpcError | None = None
        self.call = call
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for update in self.call:
                self.updates.append(update)
        except grpc.RpcError as error:
            self.error = error

    def end(self) -> pb.PerformUpdate:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the stream did not end"
        assert self.error is None, self.error
        return self.updates[-1]

    def wait_for(self, condition: Callable[[pb.PerformUpdate], bool]) -> pb.PerformUpdate:
        return until(lambda: next((update for update in self.updates if condition(update)), None))

    def join(self) -> grpc.RpcError | None:
        self._thread.join(30)
        return self.error


class Stack:
    """An oversightd in a directory of its own, and both its sides."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.workspace = home / "work"
        self.workspace.mkdir()
        self.process: subprocess.Popen[str] | None = None
        self._channel: grpc.Channel | None = None
        self.errors = home / "errors"

    def start(self, *prefix: str, program: tuple[str, ...] = ("-m", "selfware_oversightd")) -> int:
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, *program],
                env={**os.environ, "SELFWARE_HOME": str(self.home)},
                stderr=errors,
                text=True,
            )
        self._channel = clients.sync_channel(self.home / "run/oversightd/agent.sock")
        status = daemon_pb2_grpc.DaemonStub(self._channel).Status
        assert status(daemon_pb2.StatusRequest(), timeout=30, wait_for_ready=True).pid == self.process.pid
        return self.process.pid

    def stop(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        assert self._channel is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self._channel.close()
        self.process = None
        return code

    def restart(self) -> None:
        self.stop()
        self.start()

    def goal(self, goal_id: str = "t", check: list[str] | None = None, **more: Any) -> None:
        body = {"goal_id": goal_id, "workspace": str(self.workspace), "check": check or TWO_LINES, **more}
        assert self.post("/goals", **body)[0] in {200, 201}

    def perform(self, effect_id: str, argv: list[str] | None = None, task_id: str = "t", **more: Any) -> Stream:
        action = more.pop("action", None) or pb.Action(run_command=pb.RunCommand(argv=argv or TWO_LINES))
        request = pb.PerformRequest(
            effect_id=effect_id, action=action, workspace=str(self.workspace), task_id=task_id, **more
        )
        assert self._channel is not None
        stub = oversight_pb2_grpc.OversightStub(self._channel)
        return Stream(stub.Perform(request, timeout=60, wait_for_ready=True))

    def watch_control(self) -> Any:
        assert self._channel is not None
        return oversight_pb2_grpc.OversightStub(self._channel).WatchControl(pb.WatchControlRequest(), timeout=60)

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return self._call("POST", path, json.dumps(body))

    def get(self, path: str) -> tuple[int, Any]:
        return self._call("GET", path, None)

    def lines(self) -> list[str]:
        path = self.workspace / "lines"
        return path.read_text().splitlines() if path.exists() else []

    def _call(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        connection = OperatorConnection(self.home / "run/oversightd/operator.sock")
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def until(look: Callable[[], Any], deadline_seconds: float = 20) -> Any:
    deadline = time.monotonic() + deadline_seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


@pytest.fixture
def bare() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/var/tmp") as directory:
        stack = Stack(Path(directory))
        try:
            yield stack
        finally:
            if stack.process is not None:
                stack.stop()
        assert "Traceback" not in stack.errors.read_text()


@pytest.fixture
def stack(bare: Stack) -> Stack:
    bare.start()
    bare.goal()
    return bare


def test_an_allowed_action_runs_once_and_the_same_id_gives_the_same_answer(stack: Stack) -> None:
    first = stack.perform("e-1").end()
    again = stack.perform("e-1")
    assert first.state == DONE
    assert first.result.ok
    assert again.end() == first
    assert len(again.updates) == 1
    assert stack.lines() == ["begin", "end"]
    until(lambda: not list((stack.home / "state/oversightd/effects").iterdir()))


def test_other_bytes_under_the_same_effect_id_are_refused(stack: Stack) -> None:
    stack.perform("e-1").end()
    changed = stack.perform("e-1", argv=[*TWO_LINES[:2], TWO_LINES[2] + " "])
    error = changed.join()
    assert error is not None
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "never changes its meaning" in error.details()
    assert stack.lines() == ["begin", "end"]


def test_an_action_for_an_unregistered_task_or_workspace_is_refused(stack: Stack) -> None:
    assert stack.perform("e-1", task_id="other").end().state == REFUSED
    stack.workspace = stack.home
    assert "registered for another workspace" in stack.perform("e-2").end().sentence


def test_approving_unblocks_a_waiting_action(stack: Stack) -> None:
    stream = stack.perform("e-1", ["touch", "made"], reason="<b>please</b>\x1b[2J")
    waiting = stream.wait_for(lambda update: update.state == WAITING)
    assert waiting.sentence == "waiting for approval appr-1: run 'touch made'"
    assert not (stack.workspace / "made").exists()
    status, question = stack.get("/interventions/appr-1")
    assert status == 200
    assert (question["state"], question["class"]) == ("pending", "SystemCommand")
    assert question["canonical"] == '{"run_command":{"argv":["touch","made"]}}'
    assert question["reason"] == "<b>please</b>\x1b[2J"
    status, answer = stack.post("/interventions/appr-1/approve", digest=question["digest"])
    assert (status, answer["state"], answer["decided_by_uid"]) == (200, "used", os.getuid())
    assert stream.end().state == DONE
    assert [update.state for update in stream.updates] == [WAITING, RUNNING, DONE]
    assert (stack.workspace / "made").exists()


def test_an_approval_used_twice_runs_nothing_the_second_time(stack: Stack) -> None:
    stream = stack.perform("e-1", ["sh", "-c", "echo once >> lines"])
    stream.wait_for(lambda update: update.state == WAITING)
    assert stack.post("/interventions/appr-1/approve")[0] == 200
    stream.end()
    status, answer = stack.post("/interventions/appr-1/approve")
    assert (status, answer["error"]["kind"]) == (409, "conflict")
    assert "it is used already" in answer["error"]["sentence"]
    stack.restart()
    assert stack.post("/interventions/appr-1/approve")[0] == 409
    assert stack.perform("e-1", ["sh", "-c", "echo once >> lines"]).end().state == DONE
    assert stack.lines() == ["once"]


def test_an_approval_for_an_action_changed_by_one_byte_runs_nothing(stack: Stack) -> None:
    stream = stack.perform("e-1", ["sh", "-c", "echo a >> lines"])
    stream.wait_for(lambda update: update.state == WAITING)
    digest = stack.get("/interventions/appr-1")[1]["digest"]
    wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
    status, answer = stack.post("/interventions/appr-1/approve", digest=wrong)
    assert (status, answer["error"]["kind"]) == (409, "conflict")
    assert stack.perform("e-1", ["sh", "-c", "echo b >> lines"]).join() is not None
    other = stack.perform("e-2", ["sh", "-c", "echo b >> lines"])
    other.wait_for(lambda update: update.state == WAITING)
    assert stack.post("/interventions/appr-1/approve", digest=digest)[0] == 200
    stream.end()
    assert stack.lines() == ["a"]
    assert other.updates[-1].approval_id == "appr-2"
    stack.stop()
    other.join()


def test_a_rejected_action_is_refused_with_the_reason_for_ever(stack: Stack) -> None:
    stream = stack.perform("e-1", ["rm", "-r", "."])
    stream.wait_for(lambda update: update.state == WAITING)
    assert stack.post("/interventions/appr-1/reject", reason="not that")[1]["state"] == "rejected"
    assert stream.end().sentence == "rejected by a person (appr-1): not that"
    assert stack.post("/interventions/appr-1/approve")[0] == 409
    stack.restart()
    assert stack.perform("e-1", ["rm", "-r", "."]).end().state == REFUSED


def test_a_pending_approval_survives_kill_minus_nine(stack: Stack) -> None:
    stream = stack.perform("e-1", ["sh", "-c", "echo a >> lines"])
    stream.wait_for(lambda update: update.state == WAITING)
    before = stack.get("/interventions/appr-1")[1]
    stack.restart()
    stream.join()
    assert stack.get("/interventions")[1]["interventions"] == [before]
    again = stack.perform("e-1", ["sh", "-c", "echo a >> lines"])
    assert again.wait_for(lambda update: True).approval_id == "appr-1"
    assert stack.post("/interventions/appr-1/approve")[0] == 200
    assert again.end().state == DONE
    assert stack.lines() == ["a"]


def test_an_approved_action_runs_although_nobody_listens_any_more(stack: Stack) -> None:
    stream = stack.perform("e-1", ["sh", "-c", "echo a >> lines"])
    stream.wait_for(lambda update: update.state == WAITING)
    stream.call.cancel()
    stream.join()
    assert stack.post("/interventions/appr-1/approve")[0] == 200
    until(lambda: stack.get("/status")[1]["ended"]["done"] == 1)
    assert stack.lines() == ["a"]


def test_kill_while_a_tool_runs_reattaches_and_each_line_is_there_once(stack: Stack) -> None:
    stack.goal("long", ["sh", "-c", "echo begin >> lines; sleep 2; echo end >> lines"])
    argv = ["sh", "-c", "echo begin >> lines; sleep 2; echo end >> lines"]
    stream = stack.perform("e-1", argv, "long")
    until(lambda: stack.lines() == ["begin"])
    stack.restart()
    stream.join()
    again = stack.perform("e-1", argv, "long")
    assert again.wait_for(lambda update: True).state == RUNNING
    assert again.end().result.ok
    assert stack.lines() == ["begin", "end"]


def test_what_was_begun_ends_after_a_kill_without_anybody_asking(stack: Stack) -> None:
    stream = stack.perform("e-1")
    until(lambda: stack.lines() == ["begin"])
    stack.stop()
    stream.join()
    until(lambda: stack.lines() == ["begin", "end"])
    stack.start()
    until(lambda: stack.get("/status")[1]["ended"]["done"] == 1)


def test_kills_at_random_instants_never_lose_or_repeat_an_action(stack: Stack) -> None:
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    rounds = int(os.environ.get("ROUNDS", "10"))
    for number in range(1, rounds + 1):
        stream = stack.perform(f"e-{number}")
        time.sleep(chance.choice([0.01, 0.05, 0.6]) * chance.random())
        stack.restart()
        stream.join()
        last = stack.perform(f"e-{number}").end()
        assert (last.state, last.result.ok) == (DONE, True), last
        assert stack.lines() == ["begin", "end"] * number
    assert stack.get("/audit/verify")[1]["ok"]


DYING = """
import os, signal, sys
from selfware_oversightd import approvals, tools
from selfware_oversightd.__main__ import main
from selfware_oversightd.ledger import Ledger
from selfware_tool import launcher

def die(*ignored, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def dying_after(function):
    def call(*arguments, **more):
        function(*arguments, **more)
        die()
    return call

POINTS = {
    "after the intent, before the request is written": lambda: setattr(launcher, "prepare", die),
    "after the request, before the launch": lambda: setattr(launcher, "launch", die),
    "right after the launch": lambda: setattr(launcher, "launch", dying_after(launcher.launch)),
    "after the tool ended, before its result is recorded": lambda: setattr(Ledger, "end", die),
    "in the transaction of the result": lambda: setattr(Ledger, "end", dying_after(Ledger.end)),
    "after the result, before its directory is removed": lambda: setattr(tools.Tools, "remove", die),
    "while the approval is used up": lambda: setattr(approvals, "use", dying_after(approvals.use)),
    "in the transaction of the intent": lambda: setattr(Ledger, "intend", dying_after(Ledger.intend)),
    "in the transaction of the answer": lambda: setattr(Ledger, "hold", dying_after(Ledger.hold)),
}
POINTS[sys.argv.pop(1)]()
main()
"""
POINTS = [line.split('"')[1] for line in DYING.splitlines() if line.startswith('    "')]


@pytest.mark.parametrize("point", POINTS)
def test_dying_at_the_worst_instant_costs_and_repeats_nothing(bare: Stack, point: str) -> None:
    bare.start(program=("-c", DYING, point))
    bare.goal()
    argv = ["sh", "-c", "echo once >> lines"]
    stream = bare.perform("e-1", argv)
    stream.wait_for(lambda update: update.state == WAITING)
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        bare.post("/interventions/appr-1/approve")
    assert bare.process is not None
    assert bare.process.wait(20) == -signal.SIGKILL
    stream.join()
    bare.start()
    bare.post("/interventions/appr-1/approve")  # the operator heard nothing and tries again
    assert bare.perform("e-1", argv).end().state == DONE
    assert bare.lines() == ["once"]
    assert bare.get("/interventions?state=all")[1]["interventions"][0]["state"] == "used"
    assert bare.get("/audit/verify")[1]["ok"]


def test_an_action_whose_end_was_lost_is_unknown_and_not_repeated(stack: Stack) -> None:
    stream = stack.perform("e-1")
    until(lambda: stack.lines() == ["begin"])
    stack.stop()
    stream.join()
    until(lambda: stack.lines() == ["begin", "end"])
    directory = stack.home / "state/oversightd/effects/e-1"
    until((directory / "result.json").exists)
    (directory / "result.json").unlink()
    stack.start()
    last = stack.perform("e-1").end()
    assert last.state == pb.EFFECT_STATE_UNKNOWN
    assert last.sentence.startswith("outcome unknown: ")
    assert last.sentence.endswith("; not repeated")
    assert stack.lines() == ["begin", "end"]


REACH = """
import json, os, socket, sys
def can(what):
    try:
        what()
        return True
    except OSError:
        return False
def unix(path):
    return can(lambda: socket.socket(socket.AF_UNIX).connect(path))
def tcp(host, port):
    return can(lambda: socket.create_connection((host, port), 2))
home = sys.argv[1]
print(json.dumps({
    "agent.sock": unix(home + "/run/oversightd/agent.sock"),
    "operator.sock": unix(home + "/run/oversightd/operator.sock"),
    "state": can(lambda: os.listdir(home + "/state")),
    "run": can(lambda: os.listdir(home + "/run")),
    "loopback": tcp("127.0.0.1", int(sys.argv[2])),
    "outside": tcp("192.0.2.1", 80),
    "workspace": can(lambda: os.listdir(".")),
}))
"""


def test_a_sandboxed_command_reaches_no_socket_no_state_and_no_network(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        stream = stack.perform("e-1", ["python3", "-c", REACH, str(stack.home), port])
        stream.wait_for(lambda update: update.state == WAITING)
        stack.post("/interventions/appr-1/approve")
        reached = json.loads(stream.end().result.output)
    assert {name for name, can in reached.items() if can} == {"workspace"}


def test_pause_holds_and_resume_releases_and_both_are_told(stack: Stack) -> None:
    control = stack.watch_control()
    assert not next(control).paused
    assert stack.post("/pause", reason="lunch")[0] == 200
    told = next(control)
    assert (told.paused, told.reason) == (True, "lunch")
    stream = stack.perform("e-1")
    assert "paused by the operator" in stream.wait_for(lambda update: update.state == WAITING).sentence
    stack.restart()
    stream.join()
    stream = stack.perform("e-1")
    stream.wait_for(lambda update: update.state == WAITING)
    assert stack.lines() == []
    assert stack.post("/resume")[0] == 200
    assert stream.end().state == DONE
    assert stack.lines() == ["begin", "end"]


def test_a_question_expires_and_is_put_again_under_a_new_id(bare: Stack) -> None:
    configure(bare, "[intervention]\ndefault_timeout_seconds = 1\n")
    stream = bare.perform("e-1", ["sh", "-c", "echo a >> lines"])
    stream.wait_for(lambda update: update.approval_id == "appr-2")
    status, answer = bare.post("/interventions/appr-1/approve")
    assert (status, "expired" in answer["error"]["sentence"]) == (409, True)
    stream.call.cancel()
    stream.join()
    assert bare.lines() == []


def test_silence_is_a_no_where_the_operator_says_so(bare: Stack) -> None:
    text = '[intervention]\ndefault_timeout_seconds = 1\n[intervention.policy]\ndefault_on_timeout = "Reject"\n'
    configure(bare, text)
    last = bare.perform("e-1", ["sh", "-c", "echo a >> lines"]).end()
    assert (last.state, last.sentence) == (REFUSED, "refused: nobody answered appr-1 within 1 s")


def configure(stack: Stack, text: str) -> None:
    (stack.home / "etc").mkdir()
    (stack.home / "etc/selfware.toml").write_text(text)
    stack.start()
    stack.goal()


def test_the_operator_api_answers_in_json_whatever_is_asked(stack: Stack) -> None:
    assert stack.get("/health")[0] == stack.get("/health/live")[0] == stack.get("/health/ready")[0] == 200
    for path, status, kind in (("/nope", 404, "not_found"), ("/interventions/appr-9", 404, "not_found")):
        answer = stack.get(path)
        assert (answer[0], answer[1]["error"]["kind"]) == (status, kind)
    for effect in ("e-1", "e-2"):
        stack.perform(effect, ["touch", effect]).wait_for(lambda update: update.state == WAITING)
    assert stack.post("/interventions/appr/approve")[0] == 409
    assert stack.post("/interventions/appr-1/approve", digst="x")[1]["error"]["kind"] == "invalid"
    assert stack.post("/goals", goal_id="t", workspace=str(stack.workspace), check=["false"])[0] == 409
    for workspace in ("/", "relative", str(stack.home), str(stack.home / "state"), "/nowhere/at/all"):
        status, answer = stack.post("/goals", goal_id="x", workspace=workspace, check=["true"])
        assert (status, answer["error"]["kind"]) == (400, "invalid"), workspace
    assert oct((stack.home / "run/oversightd/operator.sock").stat().st_mode & 0o777) == "0o660"
    assert {row["kind"] for row in stack.get("/audit?limit=9")[1]["rows"]} == {"goal", "proposed", "asked"}
    stack.stop(signal.SIGTERM)


def test_a_polite_stop_is_quick_while_a_question_is_open(stack: Stack) -> None:
    stream = stack.perform("e-1", ["touch", "x"])
    stream.wait_for(lambda update: update.state == WAITING)
    began = time.monotonic()
    assert stack.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 2
    error = stream.join()
    assert error is not None
    assert error.code() == grpc.StatusCode.UNAVAILABLE


def test_a_second_instance_is_refused_in_one_sentence(stack: Stack) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "selfware_oversightd"],
        env={**os.environ, "SELFWARE_HOME": str(stack.home)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 75
    assert "is already running as process" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    assert stack.perform("e-1").end().state == DONE


def test_a_full_disk_is_one_clear_error_and_everything_goes_on_afterwards(bare: Stack) -> None:
    state = bare.home / "state"
    state.mkdir()
    mount = f'mount -t tmpfs -o size=4m,nr_inodes=200 tmpfs {state} && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs in a private mount namespace here")
    pid = bare.start("unshare", "-m", "sh", "-c", mount, "sh")
    bare.goal()
    assert bare.perform("e-1").end().state == DONE
    filler = Path(f"/proc/{pid}/root{state}/filler")
    fill(filler)
    error = until(lambda: bare.perform(f"e-{time.time_ns()}").join())
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "No space left" in error.details()
    done = bare.lines()
    error = bare.perform("e-2").join()
    assert error is not None
    assert bare.post("/pause")[0] in {200, 507}
    assert bare.post("/goals", goal_id="big", workspace=str(bare.workspace), check=["x" * 500_000])[0] == 507
    assert bare.perform("e-1").end().state == DONE
    assert bare.lines() == done
    filler.unlink()
    assert bare.post("/resume")[0] == 200
    assert bare.perform("e-2").end().state == DONE
    until(lambda: bare.get("/health")[0] == 200)
    assert bare.get("/audit/verify")[1]["ok"]
    until(lambda: bare.get("/status")[1]["running"] == [])
    assert bare.lines() == ["begin", "end"] * bare.get("/status")[1]["ended"]["done"]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
