"""The embedded engine as a real process with a real model: what inferenced may rely on."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from selfware_common import models

MODEL = models.find("smollm2-135m")
REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not models.is_ready(MODEL),
    reason=f"the model {MODEL.name} is not here: run 'selfwarectl models fetch {MODEL.name}'",
)
pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")


class Engine:
    """One engine process and a client for it."""

    def __init__(self, path: Path, *extra: str, model: str = MODEL.name, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "selfware_engine", "--model", model, "--socket", str(path)]
        python_path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'daemons'}"
        self.path = path
        self.process = subprocess.Popen(
            [*command, "--context", "1024", *extra],
            env={**os.environ, "PYTHONPATH": python_path, **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://engine", timeout=60)

    def wait_healthy(self, limit_seconds: float = 60) -> float:
        began = time.monotonic()
        while time.monotonic() - began < limit_seconds:
            assert self.process.poll() is None, self.end()
            try:
                if self.client.get("/health").status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"not healthy after {limit_seconds} s")

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "engine.sock")
    yield engine
    engine.process.kill()
    engine.process.communicate()


def chat(**more: object) -> dict[str, object]:
    question = {"role": "user", "content": "Say hello to Ann in one sentence."}
    return {"messages": [question], "max_tokens": 24, "temperature": 0, **more}


def test_the_engine_streams_a_chat_and_counts_its_tokens(engine: Engine) -> None:
    engine.wait_healthy()
    assert stat.S_IMODE(engine.path.stat().st_mode) == 0o660
    events = []
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with engine.client.stream("POST", "/v1/chat/completions", json=chat(**options)) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line.removeprefix("data: ")))
    pieces = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    assert len([piece for piece in pieces if piece]) > 3
    assert 0 < events[-1]["usage"]["completion_tokens"] <= 24


def test_the_engine_answers_in_the_schema_it_was_given(engine: Engine) -> None:
    engine.wait_healthy()
    properties = {"tool": {"const": "write_file"}, "path": {"enum": ["a.py"]}, "content": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    wanted = {"type": "json_schema", "json_schema": {"name": "action", "schema": schema, "strict": True}}
    reply = engine.client.post("/v1/chat/completions", json=chat(response_format=wanted, max_tokens=300))
    choice = reply.json()["choices"][0]
    if choice["finish_reason"] == "stop":
        action = json.loads(choice["message"]["content"])
        assert list(action) == ["tool", "path", "content"]
        assert (action["tool"], action["path"]) == ("write_file", "a.py")
    else:
        assert choice["message"]["content"].replace(" ", "").startswith('{"tool":"write_file"')


def test_the_engine_stops_at_once_at_sigterm_even_in_the_middle_of_a_stream(engine: Engine) -> None:
    engine.wait_healthy()
    request = chat(stream=True, max_tokens=900, ignore_eos=True)
    with engine.client.stream("POST", "/v1/chat/completions", json=request) as reply:
        lines = reply.iter_lines()
        next(lines)
        began = time.monotonic()
        engine.process.send_signal(signal.SIGTERM)
        code, _ = engine.end()
    assert code == 0
    assert time.monotonic() - began < 2
    assert not engine.path.exists()


def test_the_engine_comes_back_over_the_socket_of_a_killed_one(engine: Engine) -> None:
    engine.wait_healthy()
    engine.process.kill()
    engine.process.wait()
    assert engine.path.exists()
    second = Engine(engine.path)
    try:
        second.wait_healthy()
    finally:
        second.process.kill()
        second.process.communicate()


def test_a_second_engine_does_not_steal_the_socket_of_a_living_one(engine: Engine) -> None:
    engine.wait_healthy()
    code, errors = Engine(engine.path).end()
    assert code == 75
    assert f"already running as process {engine.process.pid}" in errors
    engine.wait_healthy()


def test_the_engine_says_ready_to_its_supervisor_when_it_is_healthy(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(60)
        engine = Engine(tmp_path / "engine.sock", env={"NOTIFY_SOCKET": address})
        try:
            assert supervisor.recv(4096).startswith(b"READY=1\nSTATUS=serving smollm2-135m")
            assert engine.client.get("/health").status_code == 200
        finally:
            engine.process.kill()
            engine.process.communicate()


def test_a_damaged_model_is_refused_with_one_sentence(tmp_path: Path) -> None:
    damaged = tmp_path / MODEL.file_name
    damaged.write_bytes(MODEL.path().read_bytes()[:1_000_000])
    code, errors = Engine(tmp_path / "engine.sock", env={"SELFWARE_MODELS": str(tmp_path)}).end()
    assert code == 65
    assert f"{damaged} is not the model smollm2-135m" in errors
    assert "Traceback" not in errors


def test_a_model_that_is_not_here_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    code, errors = Engine(tmp_path / "engine.sock", env={"SELFWARE_MODELS": str(tmp_path)}).end()
    assert code == 66
    assert "selfwarectl models fetch smollm2-135m" in errors


def test_a_broken_file_of_the_users_own_is_refused_with_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "mine.gguf"
    broken.write_bytes(b"GGUF but not really")
    code, errors = Engine(tmp_path / "engine.sock", model=str(broken)).end()
    assert code == 65
    assert f"llama.cpp could not load {broken}" in errors
