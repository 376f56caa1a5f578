"""selfwarectl as people and scripts call it: help, exit statuses, JSON, against real and scripted daemons."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import grpc
import pytest

from selfware_common.rpc import agent_pb2, agent_pb2_grpc
from selfwarectl.__main__ import COMMANDS

LEAVES = [
    *("status", "run", "approve", "reject", "pause", "resume", "recover", "queue", "resources", "doctor", "up"),
    *("tasks ls", "tasks show", "tasks cancel", "tasks retry", "tasks logs"),
    *("approvals ls", "approvals show", "approvals history"),
    *("checkpoints ls", "checkpoints show", "checkpoints verify", "checkpoints tidy"),
    *("models ls", "models fetch", "models verify", "config show", "config check"),
]
NEED_A_DAEMON = [
    *("queue", "resources", "pause", "resume", "recover", "tasks ls", "tasks show t", "tasks logs t", "approvals ls"),
    *("approve 1", "reject 1", "checkpoints ls", "checkpoints verify", "checkpoints tidy", "run x --workspace /"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        yield Path(directory)


def ctl(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selfwarectl", *arguments],
        env={**os.environ, "SELFWARE_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command_and_is_quick(home: Path) -> None:
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = ctl(home, "--help")
        times.append(time.monotonic() - began)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert min(times) < 0.5  # about 0.1 s on a quiet machine


@pytest.mark.parametrize(
    "argv",
    [
        *(["tasks", verb, "\udcff"] for verb in ("show", "cancel", "retry", "logs")),
        *([verb, "\udcff"] for verb in ("approve", "reject", "run", "\udcff")),
        *(["run", "x", "--workspace", ".", *more] for more in (["--check", "\udcff"], ["--budget-hours", "nan"])),
        *(
            ["run", "x", "--workspace", ".", *more]
            for more in (["--budget-tokens", "9" * 30], ["--attempts", "9" * 12])
        ),
    ],
)
def test_what_no_daemon_could_be_told_is_a_usage_error(argv: list[str], home: Path) -> None:
    done = ctl(home, *argv)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_a_workspace_whose_name_is_not_text_is_a_usage_error(home: Path) -> None:
    workspace = home / "\udcff"
    workspace.mkdir()
    argv = [sys.executable, "-m", "selfwarectl", "run", "x", "--workspace", "."]
    done = subprocess.run(argv, cwd=workspace, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("not valid UTF-8")) == (2, 1)


def test_a_closed_stdout_is_no_traceback(home: Path) -> None:
    argv = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "selfwarectl", "status"]
    done = subprocess.run(
        argv, env={**os.environ, "SELFWARE_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)


def test_help_imports_neither_grpc_nor_any_stub(home: Path) -> None:
    code = "import sys; from selfwarectl.__main__ import cli; cli.main(['--help'], standalone_mode=False);"
    code += "sys.exit(any(name.split('.')[0] in ('grpc', 'google') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("command", LEAVES)
def test_every_command_has_help_with_examples_and_offers_json(command: str, home: Path) -> None:
    done = ctl(home, *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    assert command == "up" or "--json" in done.stdout


@pytest.mark.parametrize("command", ["nonsense", "statsu", "approve", "run x", "run x --workspace /nowhere", "tasks"])
def test_wrong_usage_is_exit_2(command: str, home: Path) -> None:
    done = ctl(home, *command.split())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert command != "statsu" or "Did you mean 'status'?" in done.stderr


@pytest.mark.parametrize("command", NEED_A_DAEMON)
def test_a_daemon_that_is_not_there_is_exit_3_and_one_sentence_with_a_hint(command: str, home: Path) -> None:
    done = ctl(home, *command.split(), "--json")
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["sentence"].startswith("Cannot reach selfware-")
    assert "make up" in error["hint"]
    assert error["kind"] == "Unreachable"
    assert "Traceback" not in done.stderr


def test_a_socket_that_nobody_serves_any_more_is_exit_3(home: Path) -> None:
    import socket

    path = home / "run/agent/api.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    done = ctl(home, "tasks", "ls")
    assert done.returncode == 3
    assert "nobody answers there" in done.stderr


def test_a_bad_configuration_is_exit_1_with_the_nearest_key(home: Path) -> None:
    (home / "etc").mkdir()
    (home / "etc/selfware.toml").write_text("[sytem]\n")
    done = ctl(home, "config", "check")
    assert done.returncode == 1
    assert "did you mean 'system'?" in done.stderr
    assert ctl(home, "doctor", "--json").returncode == 1


def test_config_show_prints_what_config_check_accepts(home: Path) -> None:
    shown = ctl(home, "config", "show")
    (home / "shown.toml").write_text(shown.stdout)
    assert ctl(home, "config", "check", str(home / "shown.toml")).returncode == 0
    assert json.loads(ctl(home, "config", "show", "--json").stdout)["llm"]["provider"] == "embedded"


def test_models_ls_knows_what_is_here(home: Path) -> None:
    found = json.loads(ctl(home, "models", "ls", "--json", SELFWARE_MODELS=str(home)).stdout)["models"]
    assert {one["name"] for one in found} >= {"qwen2.5-coder-0.5b", "smollm2-135m"}
    assert not any(one["here"] for one in found)
    assert all(len(one["sha256"]) == 64 for one in found)


def test_a_model_file_with_other_bytes_is_refused(home: Path) -> None:
    wrong = home / "wrong.gguf"
    wrong.write_bytes(b"x" * 1000)
    done = ctl(home, "models", "fetch", "smollm2-135m", "--from", str(wrong), SELFWARE_MODELS=str(home / "m"))
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
    assert ctl(home, "models", "fetch", "smolm").returncode == 2


def test_status_and_resources_against_resourced_alone(home: Path) -> None:
    nothing = ctl(home, "status", "--json")
    assert nothing.returncode == 3
    environ = {**os.environ, "SELFWARE_HOME": str(home)}
    process = subprocess.Popen([sys.executable, "-m", "selfware_resourced"], env=environ, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while (done := ctl(home, "status", "--json")).returncode == 3:
            assert time.monotonic() < deadline, done.stderr
        told = json.loads(done.stdout)
        daemons = {one["name"]: one for one in told["daemons"]}
        assert list(daemons) == ["checkpointd", "resourced", "oversightd", "inferenced", "agent"]
        assert daemons["resourced"]["pid"] == process.pid
        assert daemons["resourced"]["running"] is True
        assert (daemons["agent"]["running"], daemons["agent"]["sentence"]) == (False, "not running")
        assert told["pressure"] in {"none", "warning", "critical", "emergency"}
        assert told["pending_approvals"] is None
        assert "not running" in ctl(home, "status").stdout
        reading = json.loads(ctl(home, "resources", "--json").stdout)
        assert reading["memory"]["total_bytes"] > 0
        assert "of inodes used" in ctl(home, "resources").stdout
        half = ctl(home, "doctor", "--json")
        assert half.returncode == 1
        wrong = [one["what"] for one in json.loads(half.stdout)["findings"] if one["ok"] is False]
        assert "agent" in wrong
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


class Scripted:
    """An operator API and an agent that write down, in one list, what they were asked."""

    def __init__(self, home: Path, ends: agent_pb2.TaskState.ValueType) -> None:
        self.asked: list[tuple[str, Any]] = []
        asked = self.asked

        class Http(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                status, answer = (200, {}) if "/goals" in self.path else (409, {"error": {"sentence": "Used already."}})
                self._send(status, answer)

            def do_GET(self) -> None:
                one = {"id": "appr-7", "digest": "d1", "summary": "run \x1b[2J make", "state": "pending"}
                self._send(200, one if self.path == "/interventions/appr-7" else {"interventions": [one]})

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Agent(agent_pb2_grpc.AgentServicer):
            def Submit(self, request: agent_pb2.SubmitRequest, context: Any) -> agent_pb2.Task:
                asked.append(("Submit", request))
                return agent_pb2.Task(task_id=request.goal_id, state=agent_pb2.TASK_STATE_QUEUED)

            def Watch(self, request: agent_pb2.WatchRequest, context: Any) -> Iterator[agent_pb2.Progress]:
                asked.append(("Watch", request))
                if len([name for name, _ in asked if name == "Watch"]) == 1:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")  # as a killed agent looks
                for state in (agent_pb2.TASK_STATE_RUNNING, ends):
                    task = agent_pb2.Task(
                        task_id=request.task_id, state=state, attempt=1, steps=2, sentence="it\x1b[2J"
                    )
                    yield agent_pb2.Progress(task=task, tokens_per_second=40)

        for name in ("oversightd", "agent"):
            (home / "run" / name).mkdir(parents=True)
        self.http = socketserver.ThreadingUnixStreamServer(str(home / "run/oversightd/operator.sock"), Http)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.grpc = grpc.server(ThreadPoolExecutor(4))
        agent_pb2_grpc.add_AgentServicer_to_server(Agent(), self.grpc)  # type: ignore[no-untyped-call,unused-ignore]
        self.grpc.add_insecure_port(f"unix:{home}/run/agent/api.sock")
        self.grpc.start()

    def close(self) -> None:
        self.grpc.stop(0).wait()
        self.http.shutdown()
        self.http.server_close()


@pytest.mark.parametrize(("ends", "status"), [("SOLVED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_run_registers_the_goal_before_the_agent_hears_of_it_and_waits_for_its_end(
    home: Path, ends: str, status: int
) -> None:
    scripted = Scripted(home, agent_pb2.TaskState.Value(f"TASK_STATE_{ends}"))
    (home / "w").mkdir()
    check = 'python -m pytest -q "a b.py"'
    more = ["--check", check, "--target", str(home / "w/x.py"), "--budget-hours", "0.5", "--commit", "--wait"]
    done = ctl(home, "run", "do it", "--workspace", str(home / "w"), *more)
    scripted.close()
    assert done.returncode == status, done.stderr
    assert [name for name, _ in scripted.asked] == ["/goals", "Submit", "Watch", "Watch"]
    goal, submitted = scripted.asked[0][1], scripted.asked[1][1]
    assert goal["check"] == ["python", "-m", "pytest", "-q", "a b.py"]
    assert goal["workspace"] == str((home / "w").resolve())
    assert goal["goal_id"] == submitted.goal_id
    assert (goal["commit"], submitted.commit) == (True, True)
    assert (list(submitted.target_paths), submitted.budget_seconds) == (["x.py"], 1800)
    assert "\x1b" not in done.stdout + done.stderr
    assert ends.lower() in done.stdout


def test_a_target_outside_the_workspace_is_a_usage_error_and_nothing_is_registered(home: Path) -> None:
    scripted = Scripted(home, agent_pb2.TASK_STATE_SOLVED)
    (home / "w").mkdir()
    done = ctl(home, "run", "do it", "--workspace", str(home / "w"), "--target", "../../etc/passwd")
    scripted.close()
    assert done.returncode == 2
    assert scripted.asked == []


def test_approve_sends_the_digest_it_showed_and_a_refusal_is_exit_4(home: Path) -> None:
    scripted = Scripted(home, agent_pb2.TASK_STATE_SOLVED)
    done = ctl(home, "approve", "7")
    scripted.close()
    assert scripted.asked == [("/interventions/appr-7/approve", {"digest": "d1"})]
    assert done.returncode == 4
    assert "Used already." in done.stderr


def test_up_refuses_a_second_stack_with_exit_4(home: Path) -> None:
    from selfware_common.sockets import InstanceLock

    lock = InstanceLock(home / "run/stack", "the foreground stack")
    done = ctl(home, "up")
    lock.close()
    assert done.returncode == 4
    assert "already running" in done.stderr
    assert "Traceback" not in done.stderr
