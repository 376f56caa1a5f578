"""What may be asked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from selfware_common.rpc import inference_pb2 as pb
from selfware_inferenced.config import Endpoint
from selfware_inferenced.errors import ModelUnknownError, RequestInvalidError
from selfware_inferenced.queue import Priority
from selfware_inferenced.requests import priority_of, prompt_of

EMBEDDED = Endpoint("embedded", "m", "http://engine")


def ask(**more: Any) -> pb.GenerateRequest:
    fields = {"request_id": "r", "messages": [pb.Message(role="user", content="hi")], **more}
    return pb.GenerateRequest(**fields)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (ask(messages=[]), "it has no messages"),
        (ask(messages=[pb.Message(role="boss")]), "the role 'boss' does not exist"),
        (ask(temperature=math.nan), "temperature is nan"),
        (ask(top_p=-1), "top_p is -1.0"),
        (ask(deadline_seconds=-1), "deadline_seconds is -1.0"),
        (ask(priority=17), "priority 17 does not exist"),
        (ask(json_schema="{"), "json_schema is not valid JSON"),
        (ask(json_schema="[]"), "json_schema is not a JSON object"),
    ],
)
def test_nonsense_is_one_sentence(request_: pb.GenerateRequest, problem: str) -> None:
    with pytest.raises(RequestInvalidError) as caught:
        prompt_of(request_, EMBEDDED)
    assert str(caught.value).startswith(f"Request r cannot be asked: {problem}")


def test_a_seed_of_zero_is_a_seed_and_no_seed_is_none() -> None:
    assert prompt_of(ask(seed=0), EMBEDDED).seed == 0
    assert prompt_of(ask(), EMBEDDED).seed is None


def test_the_embedded_engine_serves_one_model_and_an_endpoint_serves_what_it_likes() -> None:
    assert prompt_of(ask(), EMBEDDED).model == "m"
    with pytest.raises(ModelUnknownError):
        prompt_of(ask(model="x"), EMBEDDED)
    assert prompt_of(ask(model="x"), Endpoint("openai", "m", "http://e")).model == "x"


def test_an_unspecified_priority_is_normal() -> None:
    assert priority_of(ask()) is Priority.NORMAL
    assert priority_of(ask(priority=pb.PRIORITY_CRITICAL)) is Priority.CRITICAL
