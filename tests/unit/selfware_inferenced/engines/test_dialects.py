"""The request as each provider wants it."""

from __future__ import annotations

from selfware_common.settings import PROVIDERS
from selfware_inferenced.engines import Prompt, dialects

PROMPT = Prompt(model="m", messages=(("user", "hi"),))


def test_every_provider_is_asked_for_a_stream_with_its_usage() -> None:
    for provider in PROVIDERS:
        body = dialects.request_body(PROMPT, dialects.of(provider))
        assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
        assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_what_is_not_given_is_left_to_the_engine() -> None:
    body = dialects.request_body(PROMPT, dialects.of("openai"))
    assert set(body) == {"model", "messages", "temperature", "stream", "stream_options"}


def test_llama_cpp_reports_how_far_it_read_the_prompt() -> None:
    assert dialects.request_body(PROMPT, dialects.of("embedded"))["return_progress"] is True
    assert "return_progress" not in dialects.request_body(PROMPT, dialects.of("vllm"))


def test_a_priority_is_told_only_to_a_vllm_that_was_started_to_take_it() -> None:
    urgent = Prompt(model="m", messages=(("user", "hi"),), priority=4)
    assert dialects.request_body(urgent, dialects.of("vllm", own=True))["priority"] == -4
    for provider in PROVIDERS:
        assert "priority" not in dialects.request_body(urgent, dialects.of(provider))
