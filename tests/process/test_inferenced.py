"""selfware-inferenced as a real process in front of a real engine process: what its callers may rely on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import grpc
import pytest

from selfware_common.rpc import inference_pb2
from tests.process.inferenced_stack import (
    ONE_SLOT,
    PATIENCE_SECONDS,
    Stack,
    error_of,
    kinds,
    running,
    text_of,
    wait_for,
    words,
)


@pytest.fixture
def stack() -> Iterator[Stack]:
    with running() as stack:
        yield stack


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
