"""One inferenced in front of one stub engine, as real processes: what the tests of selfware-inferenced share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from selfware_common import clients
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc, inference_pb2, inference_pb2_grpc

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 20.0
MODEL = "stub"


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)
    return found


class Stack:
    """One inferenced and its engine in a short temporary home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.engine_socket = home / f"run/engine/{MODEL}.sock"
        self.processes: list[subprocess.Popen[str]] = []

    def configure(self, text: str = "", model: str = MODEL) -> None:
        (self.home / "etc").mkdir(exist_ok=True)
        (self.home / "etc/selfware.toml").write_text(f"[llm]\nmodel = '{model}'\n{text}")

    def start_engine(self) -> subprocess.Popen[str]:
        return self.launch([sys.executable, str(Path(__file__).with_name("stub_engine.py")), str(self.engine_socket)])

    def start(self, text: str = "", model: str = MODEL) -> subprocess.Popen[str]:
        self.configure(text, model)
        process = self.launch([sys.executable, "-m", "selfware_inferenced"])
        self.channel = clients.sync_channel(self.home / "run/inferenced/api.sock")
        self.stub = inference_pb2_grpc.InferenceStub(self.channel)
        self.daemon = daemon_pb2_grpc.DaemonStub(self.channel)
        self.status()
        return process

    def launch(self, command: list[str]) -> subprocess.Popen[str]:
        path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'daemons'}"
        environ = {**os.environ, "SELFWARE_HOME": str(self.home), "PYTHONPATH": path}
        process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def status(self) -> daemon_pb2.StatusReply:
        return self.daemon.Status(daemon_pb2.StatusRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True)

    def ask(self, message: str, request_id: str = "r", **more: Any) -> Any:
        request = inference_pb2.GenerateRequest(
            request_id=request_id, messages=[inference_pb2.Message(role="user", content=message)], **more
        )
        return self.stub.Generate(request, timeout=60)

    def queue(self) -> inference_pb2.QueueReply:
        return self.stub.Queue(inference_pb2.QueueRequest(), timeout=PATIENCE_SECONDS)

    def log(self) -> list[dict[str, Any]]:
        path = self.engine_socket.with_name(self.engine_socket.name + ".log")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self) -> list[str]:
        return [entry["asked"] for entry in self.log() if "asked" in entry]

    def wait_until_queued(self, *names: str) -> None:
        wait_for(lambda: [one.request_id for one in self.queue().waiting] == list(names), f"{names} waiting")

    def close(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()
        for process in self.processes:
            process.kill()
            process.communicate()


@contextmanager
def running() -> Iterator[Stack]:
    """A stack that leaves nothing afterwards."""
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        stack = Stack(Path(directory))
        try:
            yield stack
        finally:
            stack.close()


ONE_SLOT = "[llm.queue]\nmax_concurrent = 1\n"
Replies = list[inference_pb2.GenerateReply]


def kinds(replies: Replies) -> list[str]:
    """The events in order, repeats folded."""
    found: list[str] = []
    for reply in replies:
        kind = str(reply.WhichOneof("event"))
        if not found or found[-1] != kind:
            found.append(kind)
    return found


def text_of(replies: Replies) -> str:
    """What a caller has in the end: a restart makes the text before it void."""
    text = ""
    for reply in replies:
        text = "" if reply.HasField("restarted") else text + reply.delta.text
    return text


def words(count: int) -> str:
    return "".join(f"w{number} " for number in range(count))


@dataclass(frozen=True)
class Refusal:
    code: grpc.StatusCode
    details: str


def error_of(call: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return Refusal(caught.value.code(), caught.value.details() or "")
