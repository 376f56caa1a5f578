"""The scripted engine: the same request gets the same answer, and every fault it can act out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from selfware_common.testing.script import Script, ScriptError, load, parse_rule
from selfware_common.testing.scripted_engine import ScriptedEngine

REPOSITORY = Path(__file__).parents[3]


def chat(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **more}


def ask(tmp_path: Path, rules: list[dict[str, Any]], *bodies: dict[str, object]) -> list[httpx.Response]:
    """Every body, one after the other, to one engine."""

    async def run() -> list[httpx.Response]:
        socket_path = tmp_path / "engine.sock"
        async with ScriptedEngine(socket_path, Script([parse_rule(rule) for rule in rules])):
            transport = httpx.AsyncHTTPTransport(uds=str(socket_path))
            async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
                return [await client.post("/v1/chat/completions", json=body) for body in bodies]

    return asyncio.run(run())


def content(reply: httpx.Response) -> str:
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_the_answer_depends_on_the_content_and_not_on_the_order(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"when": {"contains": ["fix", "pages.py"]}, "reply": {"tool": "write_file"}},
        {"when": {"contains": "hello", "seed": 3}, "reply": "third"},
        {"reply": "default"},
    ]
    one, two, three = chat("please fix pages.py"), chat("hello", seed=3), chat("hello", seed=4)
    expected = {0: '{"tool":"write_file"}', 1: "third", 2: "default"}
    for order in ([0, 1, 2], [2, 1, 0], [1, 1, 0]):
        replies = ask(tmp_path, rules, *([one, two, three][number] for number in order))
        assert [content(reply) for reply in replies] == [expected[number] for number in order]


def test_a_stream_joins_to_the_reply_and_ends_with_its_usage(tmp_path: Path) -> None:
    text = "def f():\n    return 'a  b'\n"
    body = chat("two words", stream=True, stream_options={"include_usage": True})
    (reply,) = ask(tmp_path, [{"reply": text}], body)
    *pieces, usage = events(reply)
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == text
    assert pieces[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["prompt_tokens"] == 2
    assert usage["usage"]["completion_tokens"] == len(pieces) - 1


def test_max_tokens_cuts_the_reply_and_says_length(tmp_path: Path) -> None:
    whole, streamed = ask(
        tmp_path, [{"reply": "a b c d"}], chat("x", max_tokens=2), chat("x", max_tokens=2, stream=True)
    )
    assert content(whole) == "a b"
    assert whole.json()["choices"][0]["finish_reason"] == "length"
    assert events(streamed)[-1]["choices"][0]["finish_reason"] == "length"


def test_tool_calls_are_answered_whole_and_streamed(tmp_path: Path) -> None:
    rules = [{"tool_calls": [{"name": "finish", "arguments": {"summary": "done"}}]}]
    whole, streamed = ask(tmp_path, rules, chat("x"), chat("x", stream=True))
    call = whole.json()["choices"][0]["message"]["tool_calls"][0]
    assert call["function"] == {"name": "finish", "arguments": '{"summary":"done"}'}
    first, last = events(streamed)
    assert first["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "finish"
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_a_fault_that_is_used_up_lets_the_next_rule_answer(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [{"status": 500, "times": 2}, {"reply": "well again"}]
    replies = ask(tmp_path, rules, *[chat("x")] * 3)
    assert [reply.status_code for reply in replies] == [500, 500, 200]
    assert "error" in replies[0].json()


@pytest.mark.parametrize("stream", [True, False])
def test_a_cut_breaks_the_connection_without_a_goodbye(tmp_path: Path, stream: bool) -> None:
    with pytest.raises(httpx.TransportError):
        ask(tmp_path, [{"reply": "a b c d", "cut_after_tokens": 2}], chat("x", stream=stream))


def test_delays_are_kept(tmp_path: Path) -> None:
    began = time.monotonic()
    rules = [{"reply": "a b c", "start_delay_seconds": 0.1, "tokens_delay_seconds": 0.05}]
    ask(tmp_path, rules, chat("x", stream=True))
    assert time.monotonic() - began >= 0.25


def test_a_request_that_no_rule_matches_is_an_error(tmp_path: Path) -> None:
    (reply,) = ask(tmp_path, [{"when": {"contains": "y"}, "reply": "y"}], chat("x"))
    assert reply.status_code == 400


def test_used_up_faults_stay_used_up_after_the_engine_was_killed(tmp_path: Path) -> None:
    socket_path, script, state = tmp_path / "engine.sock", tmp_path / "script.json", tmp_path / "state.json"
    script.write_text(json.dumps([{"status": 503, "times": 1}, {"reply": "well again"}]))
    command = [sys.executable, "-m", "selfware_common.testing.scripted_engine"]
    command += ["--socket", str(socket_path), "--script", str(script), "--state", str(state)]
    seen = []
    for _ in range(2):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket_path)), base_url="http://e") as client:
            wait_healthy(client)
            seen.append(client.post("/v1/chat/completions", json=chat("x")).status_code)
        process.kill()
        process.wait()
    assert seen == [503, 200]


def test_sigterm_ends_it_cleanly_and_takes_the_socket_along(tmp_path: Path) -> None:
    socket_path, script = tmp_path / "engine.sock", tmp_path / "script.json"
    script.write_text('[{"reply": "hello"}]')
    command = [sys.executable, "-m", "selfware_common.testing.scripted_engine"]
    process = subprocess.Popen(
        [*command, "--socket", str(socket_path), "--script", str(script)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket_path)), base_url="http://e") as client:
        wait_healthy(client)
        assert client.get("/v1/models").json()["data"][0]["id"] == "scripted"
        assert len(client.post("/tokenize", json={"content": "one two"}).json()["tokens"]) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert not socket_path.exists()


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"when": {"contain": ["x"]}, "replies": "y"}]')
    with pytest.raises(ScriptError, match="unknown key contain, replies"):
        load(script)


def wait_healthy(client: httpx.Client, limit_seconds: float = 30) -> None:
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("the scripted engine did not become healthy")
