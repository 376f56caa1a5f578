"""Chunks of a streamed completion, added up."""

from __future__ import annotations

import json
from typing import Any

from selfware_inferenced.engines.openai_http import Reply, context_of


def chunk(finish_reason: str | None = None, **delta: Any) -> bytes:
    return json.dumps({"choices": [{"delta": delta, "finish_reason": finish_reason}]}).encode()


def test_text_counts_and_the_end_come_from_the_chunks() -> None:
    reply = Reply()
    assert reply.take(chunk(role="assistant", content=None)) is None
    assert (reply.text, reply.tokens) == ("", 0)
    assert reply.take(chunk(content="hi")) is None
    assert (reply.text, reply.tokens) == ("hi", 1)
    assert reply.take(chunk("length")) is None
    assert reply.take(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}') is None
    assert not reply.done
    assert reply.take(b"[DONE]") is None
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, reply.done) == ("length", 3, 9, True)


def test_thinking_is_progress_but_no_text() -> None:
    reply = Reply()
    reply.take(chunk(reasoning_content="hm"))
    assert (reply.text, reply.tokens) == ("", 1)


def test_reading_the_prompt_is_progress() -> None:
    reply = Reply()
    reply.take(b'{"choices":[],"prompt_progress":{"total":9,"processed":4}}')
    assert reply.prefilled == 5


def test_errors_and_nonsense_are_reported() -> None:
    reply = Reply()
    assert reply.take(b'{"error":{"message":"x"}}') == {"message": "x"}
    assert "no JSON" in reply.take(b"<html>")
    assert "no JSON object" in reply.take(b"[1]")


def test_the_context_window_is_found_in_what_vllm_and_llama_cpp_say() -> None:
    vllm = {"data": [{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": 4096}]}
    assert context_of(vllm, "m") == 4096
    assert context_of({"data": [{"id": "alias", "meta": {"n_ctx": 2048}}]}, "m") == 2048
    assert context_of({"data": [{"id": "m"}]}, "m") == 0
    assert context_of({}, "m") == 0
