"""Engines that are absent, die, stall, cut their streams or refuse: what a caller of selfware-inferenced sees."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from selfware_common import models
from selfware_common.rpc import inference_pb2
from tests.process.inferenced_stack import (
    Replies,
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
        (
            "cut=2",
            "the engine's stream ended before the reply was complete|the engine's connection was cut in mid-stream",
        ),
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
            grpc.StatusCode.OUT_OF_RANGE,
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


SMALL = models.find("smollm2-135m")


@pytest.mark.skipif(
    not models.is_ready(SMALL) or not importlib.util.find_spec("xllamacpp"),
    reason=f"needs the extra 'embedded' and 'selfwarectl models fetch {SMALL.name}'",
)
def test_the_embedded_engine_writes_json_to_order_and_survives_kill_9(stack: Stack) -> None:
    stack.engine_socket = stack.home / f"run/engine/{SMALL.name}.sock"
    command = [sys.executable, "-m", "selfware_engine", "--model", SMALL.name, "--context", "1024"]
    engine = stack.launch([*command, "--socket", str(stack.engine_socket)])
    stack.start(model=SMALL.name)
    properties = {"tool": {"const": "finish"}, "steps": {"type": "array", "items": {"type": "integer"}, "minItems": 30}}
    schema = json.dumps({"type": "object", "properties": properties, "required": ["tool", "steps"]})
    call = stack.ask("Count.", json_schema=schema, max_tokens=48, seed=1, deadline_seconds=50)
    replies: Replies = []
    while not (replies and replies[-1].HasField("delta")):
        replies.append(next(call))
    engine.send_signal(signal.SIGKILL)
    stack.launch([*command, "--socket", str(stack.engine_socket)])
    replies += list(call)
    assert "".join(text_of(replies).split()).startswith('{"tool":"finish","steps":[')
    finished = replies[-1].finished
    assert (finished.completion_tokens, finished.finish_reason, finished.restarts) == (48, "length", 1)
