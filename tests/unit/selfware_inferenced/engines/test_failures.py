"""What a failure of an engine means."""

from __future__ import annotations

import json

import pytest

from selfware_common.errors import SelfwareError
from selfware_inferenced.engines.failures import EngineFailure, Remedy, of_event, of_http
from selfware_inferenced.errors import ContextOverflowError, KeyRefusedError, ModelUnknownError, RequestRefusedError


def http(status: int, message: str = "", retry_after: str = "", **more: object) -> EngineFailure | SelfwareError:
    body = json.dumps({"error": {"message": message, **more}}).encode()
    return of_http(status, body, "/run/e.sock", "m", retry_after)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (500, Remedy.REPEAT),
        (501, Remedy.REPEAT),
        (502, Remedy.WAIT),
        (503, Remedy.WAIT),
        (504, Remedy.WAIT),
        (408, Remedy.PAUSE),
        (429, Remedy.PAUSE),
        (302, Remedy.REPEAT),
    ],
)
def test_the_engine_s_own_trouble_is_mended_by_waiting_or_repeating(status: int, remedy: Remedy) -> None:
    failure = http(status, "x")
    assert isinstance(failure, EngineFailure)
    assert failure.remedy is remedy


def test_a_vllm_whose_worker_died_is_waited_for_and_not_counted_as_another_loss() -> None:
    says = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    failure = http(500, says, type="InternalServerError", code=500)
    assert getattr(failure, "remedy", None) is Remedy.WAIT
    in_the_stream = of_event({"message": says, "type": "InternalServerError", "code": 500}, "/run/e.sock", "m")
    assert getattr(in_the_stream, "remedy", None) is Remedy.REPEAT


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (http(400, "bad schema"), RequestRefusedError),
        (http(422, "odd"), RequestRefusedError),
        (http(413, ""), ContextOverflowError),
        (http(400, "no", type="exceed_context_size_error"), ContextOverflowError),
        (http(400, "no", code="context_length_exceeded"), ContextOverflowError),
        (http(400, "This model's maximum context length is 4096 tokens."), ContextOverflowError),
        (http(404, "no such model"), ModelUnknownError),
        (http(401, "no"), KeyRefusedError),
        (http(403, "no"), KeyRefusedError),
    ],
)
def test_a_refusal_keeps_its_kind(failure: EngineFailure | SelfwareError, kind: type[SelfwareError]) -> None:
    assert type(failure) is kind


def test_a_busy_engine_says_itself_for_how_long() -> None:
    assert getattr(http(429, retry_after="7"), "pause_seconds", None) == 7
    assert getattr(http(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), "pause_seconds", None) == 0


def test_the_engine_s_words_become_one_short_line() -> None:
    assert "a b c" in str(http(500, "a\nb\t c."))
    assert len(str(http(400, "x" * 5000))) < 600
    assert "HTTP 500: <html> gone </html>" in str(of_http(500, b"<html>\ngone\n</html>", "e", "m"))
    assert "HTTP 400" in str(of_http(400, b"", "e", "m"))
    assert "plain words" in str(of_http(400, b'{"error":"plain words"}', "e", "m"))
    assert "detail words" in str(of_http(422, b'{"detail":"detail words"}', "e", "m"))


def test_an_error_inside_a_stream_is_a_loss_unless_it_blames_the_request() -> None:
    died = of_event({"message": "EngineCore died", "code": 500}, "e", "m")
    assert isinstance(died, EngineFailure)
    assert died.remedy is Remedy.REPEAT
    assert died.reason == "the engine reported 'EngineCore died' in the stream"
    assert isinstance(of_event("gone", "e", "m"), EngineFailure)
    assert isinstance(of_event({"message": "bad", "code": 400}, "e", "m"), RequestRefusedError)
    assert isinstance(of_event({"message": "the context window is full"}, "e", "m"), ContextOverflowError)
