"""selfware-inferenced as a real process in front of a real engine process: what its callers may rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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

    def configure(self, text: str = "") -> None:
        (self.home / "etc").mkdir(exist_ok=True)
        (self.home / "etc/selfware.toml").write_text(f"[llm]\nmodel = '{MODEL}'\n{text}")

    def start_engine(self) -> subprocess.Popen[str]:
        return self._start([sys.executable, str(Path(__file__).with_name("stub_engine.py")), str(self.engine_socket)])

    def start(self, text: str = "") -> subprocess.Popen[str]:
        self.configure(text)
        process = self._start([sys.executable, "-m", "selfware_inferenced"])
        self.channel = clients.sync_channel(self.home / "run/inferenced/api.sock")
        self.stub = inference_pb2_grpc.InferenceStub(self.channel)
        self.daemon = daemon_pb2_grpc.DaemonStub(self.channel)
        self.status()
        return process

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
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


@pytest.fixture
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        stack = Stack(Path(directory))
        yield stack
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


def test_tokens_stream_one_by_one_and_the_end_carries_the_counts(stack: Stack) -> None:
    stack.start_engine()
    stack.start()
    replies = list(stack.ask("words=5 delay=0.05"))
    assert kinds(replies)[-3:] == ["started", "delta", "finished"]
    assert [reply.delta.text for reply in replies if reply.HasField("delta")] == [f"w{n} " for n in range(5)]
    finished = replies[-1].finished
    assert (finished.finish_reason, finished.prompt_tokens, finished.completion_tokens) == ("stop", 7, 5)
    assert 0.2 < finished.seconds < 5
    assert finished.tokens_per_second == pytest.approx(5 / finished.seconds)
    assert finished.restarts == 0


def test_the_request_reaches_the_engine_with_its_schema_seed_and_stops(stack: Stack) -> None:
    stack.start_engine()
    stack.start()
    schema = '{"type":"object","properties":{"b":{"type":"string"},"a":{"const":1}}}'
    list(stack.ask("words=1", json_schema=schema, seed=0, stop=["END"], max_tokens=9, temperature=0.5))
    body = next(entry["body"] for entry in stack.log() if "body" in entry)
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": json.loads(schema)}}
    assert body["response_format"] == wanted
    assert list(body["response_format"]["json_schema"]["schema"]["properties"]) == ["b", "a"]  # order is meaning
    assert (body["seed"], body["stop"], body["max_tokens"], body["temperature"]) == (0, ["END"], 9, 0.5)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_with_one_slot_the_queue_is_served_by_priority_and_then_by_arrival(stack: Stack) -> None:
    stack.start_engine()
    stack.start(ONE_SLOT)
    first = stack.ask("words=1000 delay=0.05 name=first", "first")
    wait_for(stack.asked, "the first request in the engine")
    calls = []
    expected: list[str] = []
    order = [
        ("low", inference_pb2.PRIORITY_LOW, ["low"]),
        ("normal", inference_pb2.PRIORITY_UNSPECIFIED, ["normal", "low"]),
        ("high1", inference_pb2.PRIORITY_HIGH, ["high1", "normal", "low"]),
        ("high2", inference_pb2.PRIORITY_HIGH, ["high1", "high2", "normal", "low"]),
    ]
    for name, priority, expected in order:
        calls.append(stack.ask(f"words=1 name={name}", name, priority=priority))
        stack.wait_until_queued(*expected)
    first.cancel()
    for call in calls:
        assert kinds(list(call)) == ["queued", "started", "delta", "finished"]
    assert [message.split("name=")[1] for message in stack.asked()] == ["first", *expected]


def test_a_waiting_request_is_told_its_place(stack: Stack) -> None:
    stack.start_engine()
    stack.start(ONE_SLOT)
    first = stack.ask("words=1000 delay=0.05", "first")
    wait_for(stack.asked, "the first request in the engine")
    second = stack.ask("words=1 name=2", "second")
    stack.wait_until_queued("second")
    third = stack.ask("words=1 name=3", "third")
    stack.wait_until_queued("second", "third")
    first.cancel()
    list(second)
    queued = [reply.queued for reply in third if reply.HasField("queued")]
    assert [(one.position, one.reason) for one in queued] == [(1, "all slots are busy"), (0, "all slots are busy")]


def test_a_critical_request_preempts_a_lower_one_which_then_completes(stack: Stack) -> None:
    stack.start_engine()
    stack.start(ONE_SLOT)
    low = stack.ask("words=30 delay=0.03 name=low", "low", priority=inference_pb2.PRIORITY_LOW)
    replies = [next(low), next(low), next(low)]
    critical = list(stack.ask("words=2 name=critical", "crit", priority=inference_pb2.PRIORITY_CRITICAL))
    assert kinds(critical) == ["queued", "started", "delta", "finished"]
    replies += list(low)
    reasons = [reply.restarted.reason for reply in replies if reply.HasField("restarted")]
    assert reasons == ["preempted by crit"]
    assert text_of(replies) == words(30)
    assert replies[-1].finished.restarts == 1
    assert {"gone": "words=30 delay=0.03 name=low"} in stack.log()


def test_without_preemption_a_critical_request_waits_for_the_slot(stack: Stack) -> None:
    stack.start_engine()
    stack.start(f"{ONE_SLOT}enable_preemption = false\n")
    low = stack.ask("words=10 delay=0.03", "low", priority=inference_pb2.PRIORITY_LOW)
    next(low)
    list(stack.ask("words=1", "crit", priority=inference_pb2.PRIORITY_CRITICAL))
    assert "restarted" not in kinds(list(low))


def test_a_deadline_that_passes_in_the_queue_is_a_sentence(stack: Stack) -> None:
    stack.start_engine()
    stack.start(ONE_SLOT)
    first = stack.ask("words=1000 delay=0.05", "first")
    wait_for(stack.asked, "the first request in the engine")
    began = time.monotonic()
    error = error_of(stack.ask("words=1", "late", deadline_seconds=0.3))
    assert 0.3 <= time.monotonic() - began < 3
    assert error.code == grpc.StatusCode.DEADLINE_EXCEEDED
    expected = "Request late ran out of its 0.3 s: it was still waiting, with 0 requests before it."
    assert error.details.startswith(expected)
    assert not stack.queue().waiting
    first.cancel()


def test_a_deadline_that_passes_while_generating_stops_the_engine(stack: Stack) -> None:
    stack.start_engine()
    stack.start()
    error = error_of(stack.ask("words=1000 delay=0.05", deadline_seconds=0.4))
    assert error.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "tokens" in error.details
    wait_for(lambda: {"gone": "words=1000 delay=0.05"} in stack.log(), "the engine noticing")


def test_a_caller_that_hangs_up_stops_the_engine_and_frees_the_slot(stack: Stack) -> None:
    stack.start_engine()
    stack.start(ONE_SLOT)
    call = stack.ask("words=1000 delay=0.02")
    for _ in range(3):
        next(call)
    call.cancel()
    began = time.monotonic()
    wait_for(lambda: {"gone": "words=1000 delay=0.02"} in stack.log(), "the engine noticing")
    assert time.monotonic() - began < 2
    assert kinds(list(stack.ask("words=1")))[-1] == "finished"


def test_an_engine_killed_in_mid_stream_costs_a_restart_and_nothing_else(stack: Stack) -> None:
    engine = stack.start_engine()
    stack.start()
    call = stack.ask("words=20 delay=0.02", seed=5)
    replies = [next(call) for _ in range(4)]
    assert replies[-1].HasField("delta")
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    wait_for(lambda: any(one.reason == "engine is starting" for one in _queued(call, replies)), "the wait")
    stack.start_engine()
    replies += list(call)
    assert kinds(replies)[-5:] == ["restarted", "queued", "started", "delta", "finished"]
    assert text_of(replies) == words(20)
    assert replies[-1].finished.restarts == 1
    assert [entry["body"]["seed"] for entry in stack.log() if "body" in entry] == [5, 5]


def _queued(call: Any, replies: Replies) -> list[inference_pb2.Queued]:
    replies.append(next(call))
    return [reply.queued for reply in replies if reply.HasField("queued")]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("cut=2", "the engine's stream ended before the reply was complete|the connection to the engine broke"),
        ("error=2", "the engine reported 'worker died' in the stream"),
        ("status=500 says=out_of_memory", "the engine answered HTTP 500: out of memory"),
        ("status=500 says=twice times=2", "the engine answered HTTP 500: twice"),
    ],
)
def test_a_lost_reply_is_generated_again_from_the_start(stack: Stack, trouble: str, reason: str) -> None:
    stack.start_engine()
    stack.start()
    replies = list(stack.ask(f"words=4 {trouble}"))
    reasons = [reply.restarted.reason for reply in replies if reply.HasField("restarted")]
    assert len(reasons) == (2 if "times=2" in trouble else 1)
    assert any(known in reasons[0] for known in reason.split("|"))
    assert text_of(replies) == words(4)


def test_an_engine_that_is_alive_but_produces_nothing_counts_as_lost(stack: Stack) -> None:
    stack.start_engine()
    stack.start("stall_timeout_seconds = 1\n")
    replies = list(stack.ask("words=4 stall=2"))
    reasons = [reply.restarted.reason for reply in replies if reply.HasField("restarted")]
    assert reasons == ["the engine produced no token for 1 s"]
    assert text_of(replies) == words(4)


def test_a_stream_that_never_finishes_is_given_up_with_one_sentence(stack: Stack) -> None:
    stack.start_engine()
    stack.start()
    error = error_of(stack.ask("words=4 unfinished=1"))
    assert error.code == grpc.StatusCode.UNAVAILABLE
    assert "was lost 21 times during request r" in error.details


@pytest.mark.parametrize(
    ("trouble", "code", "sentence"),
    [
        ("status=400 says=bad_schema", grpc.StatusCode.INVALID_ARGUMENT, "refused the request: bad schema."),
        ("status=422 says=odd", grpc.StatusCode.INVALID_ARGUMENT, "refused the request: odd."),
        (
            "status=400 says=request_exceeds_the_available_context_size",
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "is longer than the context of the engine",
        ),
        ("status=404 says=no_such_model", grpc.StatusCode.FAILED_PRECONDITION, "does not serve stub: no such model."),
        ("status=401 says=bad_key", grpc.StatusCode.FAILED_PRECONDITION, "refused our key: bad key."),
    ],
)
def test_a_refusal_is_one_sentence_and_is_not_retried(
    stack: Stack, trouble: str, code: grpc.StatusCode, sentence: str
) -> None:
    stack.start_engine()
    stack.start()
    error = error_of(stack.ask(trouble))
    assert error.code == code
    assert sentence in error.details
    assert len(stack.asked()) == 1


def test_a_busy_engine_is_asked_again(stack: Stack) -> None:
    stack.start_engine()
    stack.start()
    replies = list(stack.ask("words=2 status=429 times=3"))
    assert kinds(replies) == ["queued", "started", "delta", "finished"]
    assert "engine is busy" in {reply.queued.reason for reply in replies}
    assert len(stack.asked()) == 4


def test_a_request_waits_for_an_engine_that_is_not_there_yet(stack: Stack) -> None:
    stack.start()
    call = stack.ask("words=3")
    first = next(call)
    assert (first.queued.position, first.queued.reason) == (0, "engine is starting")
    stack.start_engine()
    wait_for(stack.engine_socket.exists, "the engine's socket")
    began = time.monotonic()
    replies = list(call)
    assert time.monotonic() - began < 1.5  # noticed within a moment, not at the next round
    assert kinds(replies)[-3:] == ["started", "delta", "finished"]


def test_a_request_for_an_absent_engine_ends_at_its_deadline(stack: Stack) -> None:
    stack.start()
    error = error_of(stack.ask("words=3", deadline_seconds=0.5))
    assert error.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "still waiting, because the engine is starting" in error.details


def test_the_status_sentence_says_what_goes_on(stack: Stack) -> None:
    stack.start()
    wait_for(
        lambda: stack.status().sentence == f"waiting for the engine at {stack.engine_socket}", "the waiting sentence"
    )
    assert not stack.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=5).models[0].ready
    stack.start_engine()
    wait_for(lambda: stack.status().sentence == "stub ready: 0 running, 0 waiting", "the ready sentence")
    model = stack.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=5).models[0]
    assert (model.name, model.engine, model.ready, model.context_tokens) == ("stub", "embedded", True, 4096)
    call = stack.ask("words=1000 delay=0.02")
    wait_for(lambda: stack.status().sentence.startswith("stub ready: 1 running, 0 waiting, "), "the running sentence")
    assert stack.status().sentence.endswith(" tokens/s")
    call.cancel()


def test_a_polite_stop_lets_requests_go_with_a_sentence_and_is_quick(stack: Stack) -> None:
    stack.start_engine()
    process = stack.start(ONE_SLOT)
    running = stack.ask("words=1000 delay=0.02", "running")
    next(running)
    waiting = stack.ask("words=1", "waiting")
    stack.wait_until_queued("waiting")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for name, call in (("running", running), ("waiting", waiting)):
        error = error_of(call)
        assert error.code == grpc.StatusCode.UNAVAILABLE
        assert error.details.startswith(f"selfware-inferenced is stopping and let go of request {name}.")
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert time.monotonic() - began < 3
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert "Unclosed" not in errors
    wait_for(lambda: {"gone": "words=1000 delay=0.02"} in stack.log(), "the engine noticing")


def test_a_reload_moves_to_another_endpoint_and_running_requests_begin_again_there(stack: Stack) -> None:
    engine = stack.start_engine()
    process = stack.start()
    call = stack.ask("words=40 delay=0.03")
    replies = [next(call), next(call)]
    other = stack.home / "run/engine/other.sock"
    stack.engine_socket = other
    stack.start_engine()
    wait_for(other.exists, "the other engine")
    stack.configure(f"base_url = 'unix:{other}'\n")
    process.send_signal(signal.SIGHUP)
    replies += list(call)
    assert text_of(replies) == words(40)
    assert "restarted" in kinds(replies)
    assert stack.asked() == ["words=40 delay=0.03"]
    assert engine.poll() is None


def test_what_cannot_be_asked_is_refused_before_the_engine(stack: Stack) -> None:
    stack.start_engine()
    stack.start()
    error = error_of(stack.ask("words=1", json_schema="{"))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details.startswith("Request r cannot be asked: json_schema is not valid JSON")
    error = error_of(stack.ask("words=1", model="other"))
    assert error.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "does not serve other: it serves stub." in error.details
    assert stack.asked() == []
