"""A model engine that answers from a script: OpenAI-compatible HTTP on a Unix socket, with faults on demand.

It gives process tests an engine that is real in every way but one: nobody thinks. Runs in a process of its own
(``python -m selfware_common.testing.scripted_engine --socket PATH --script FILE``) so that it can be killed, or
inside a test (``async with ScriptedEngine(path, script)``). `make run` never uses it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from selfware_common import http_health
from selfware_common.errors import SelfwareError
from selfware_common.notify import Notifier
from selfware_common.testing.script import Rule, Script, load

MODEL_NAME = "scripted"


@dataclass(frozen=True)
class Request:
    """What of a chat request decides its answer."""

    text: str
    seed: int | None
    max_tokens: int | None
    stream: bool
    include_usage: bool

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        text = "\n".join(_content(message) for message in body.get("messages", []))
        options = body.get("stream_options") or {}
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        stream = bool(body.get("stream"))
        return cls(text, body.get("seed"), limit, stream, bool(options.get("include_usage")))

    def usage(self, completion_tokens: int) -> dict[str, int]:
        prompt = count_tokens(self.text)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt + completion_tokens,
        }


class ScriptedEngine:
    """One server. It owns its socket; `requests` holds every chat request it saw, for tests in the same process."""

    def __init__(self, socket_path: Path, script: Script) -> None:
        self.socket_path = socket_path
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/tokenize", self._tokenize)
        self.socket_path.unlink(missing_ok=True)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket_path)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.socket_path.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _models(self, _request: web.Request) -> web.Response:
        return _json({"object": "list", "data": [{"id": MODEL_NAME, "object": "model", "owned_by": "test"}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        return _json({"tokens": list(range(count_tokens(str(body.get("content", "")))))})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests.append(body)
        wanted = Request.parse(body)
        rule = self.script.answer(wanted.text, wanted.seed)
        if rule is None:
            return _error(400, "no rule of the script matches this request")
        await asyncio.sleep(rule.start_delay_seconds)
        if rule.status != 200:
            return _error(rule.status, "the script says so")
        if wanted.stream:
            return await self._stream(request, wanted, rule)
        return await self._whole(request, wanted, rule)

    async def _whole(self, request: web.Request, wanted: Request, rule: Rule) -> web.Response:
        tokens = rule.tokens[: wanted.max_tokens]
        await asyncio.sleep(rule.tokens_delay_seconds * len(tokens))
        if rule.cut_after_tokens is not None:
            _cut(request)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(tokens) or None}
        if rule.tool_calls:
            message["tool_calls"] = _tool_calls(rule)
        choice = {"index": 0, "message": message, "finish_reason": _finish(wanted, rule)}
        head = {"id": "chat-scripted", "object": "chat.completion", "model": MODEL_NAME}
        return _json({**head, "choices": [choice], "usage": wanted.usage(len(tokens))})

    async def _stream(self, request: web.Request, wanted: Request, rule: Rule) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        async for token in _paced(rule, wanted.max_tokens):
            if sent == rule.cut_after_tokens:
                _cut(request)
            await response.write(_event([_delta({"content": token})]))
            sent += 1
        if rule.cut_after_tokens is not None:
            _cut(request)
        if rule.tool_calls:
            calls = [{"index": number, **call} for number, call in enumerate(_tool_calls(rule))]
            await response.write(_event([_delta({"tool_calls": calls})]))
        await response.write(_event([_delta({}, _finish(wanted, rule))]))
        if wanted.include_usage:
            await response.write(_event([], usage=wanted.usage(sent)))
        await response.write(b"data: [DONE]\n\n")
        return response


def count_tokens(text: str) -> int:
    """The scripted engine's idea of tokens: words."""
    return len(text.split())


async def _paced(rule: Rule, limit: int | None) -> AsyncIterator[str]:
    for token in rule.tokens[:limit]:
        await asyncio.sleep(rule.tokens_delay_seconds)
        yield token


def _content(message: dict[str, Any]) -> str:
    """The text of a message, whether it is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def _cut(request: web.Request) -> None:
    """Break the connection as a dying engine would: no last chunk, no goodbye."""
    if request.transport is not None:
        request.transport.close()
    raise asyncio.CancelledError


def _finish(wanted: Request, rule: Rule) -> str:
    if rule.finish_reason:
        return rule.finish_reason
    if rule.tool_calls:
        return "tool_calls"
    return "length" if wanted.max_tokens is not None and len(rule.tokens) > wanted.max_tokens else "stop"


def _tool_calls(rule: Rule) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(rule.tool_calls)
    ]


def _delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _event(choices: list[dict[str, Any]], **more: object) -> bytes:
    head = {"id": "chat-scripted", "object": "chat.completion.chunk", "model": MODEL_NAME}
    return b"data: " + orjson.dumps({**head, "choices": choices, **more}) + b"\n\n"


def _json(document: object) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    body = orjson.dumps({"error": {"code": status, "message": message, "type": "scripted"}})
    return web.Response(status=status, body=body, content_type="application/json")


async def serve(engine: ScriptedEngine) -> None:
    """Serve until SIGTERM or SIGINT; as a unit, it says when it is ready and that it still answers, as real ones do."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier()
    pause_seconds = notifier.watchdog_seconds / 4 or None
    async with engine:
        notifier.ready("answering from a script")
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_seconds)
            if await http_health.answers(engine.socket_path):
                notifier.alive("answering from a script")


def main() -> int:
    """A wrong script ends with one sentence and its exit code."""
    parser = argparse.ArgumentParser(prog="scripted-engine", description="Answer chat requests from a script.")
    parser.add_argument("--socket", required=True, type=Path, help="the Unix socket to serve on")
    parser.add_argument("--script", required=True, type=Path, help="a JSON list of rules")
    parser.add_argument("--state", type=Path, help="keeps the counts of limited rules over a kill")
    given = parser.parse_args()
    try:
        script = load(given.script, given.state)
    except SelfwareError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    asyncio.run(serve(ScriptedEngine(given.socket, script)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
