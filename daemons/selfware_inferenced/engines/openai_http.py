"""An engine at the other end of OpenAI-compatible HTTP: a Unix socket or a URL.

Owns the HTTP session. One request is one connection on a Unix socket, so that a killed engine leaves no stale
connection behind; over TCP connections are kept, because TLS is slow. Closing the stream closes the connection, which
is how an engine learns that nobody listens any more.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import orjson

from selfware_common import clients
from selfware_inferenced.config import Endpoint
from selfware_inferenced.engines import Accepted, End, Health, Piece, Prefilled, Prompt, Text, dialects, failures
from selfware_inferenced.errors import NoStreamError
from selfware_inferenced.sse import DONE, SseParser

HEALTH_TIMEOUT_SECONDS = 2.0
LONGEST_ERROR_BYTES = 64 * 1024
NOT_THERE = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET})
BROKEN_FINISHES = frozenset({"abort", "error"})  # vLLM's words for a reply it gave up


class OpenAiHttpEngine:
    """Implements engines.Engine; create it inside a running loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address
        self._endpoint = endpoint
        self._dialect = dialects.of(endpoint.provider, endpoint.own)
        self._context_tokens = 0
        self._session = aiohttp.ClientSession(
            connector=_connector(endpoint),
            headers={"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {},
            timeout=aiohttp.ClientTimeout(total=None, connect=10, sock_read=None),  # stalls are judged by tokens
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=256 * 1024,
        )

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """See engines.Engine."""
        if self._session.closed:
            raise failures.lost("the engine settings were changed")
        body = orjson.dumps(dialects.request_body(prompt, self._dialect))
        headers = {"Content-Type": "application/json", "traceparent": clients.traceparent()}
        url = f"{self._endpoint.base_url}/v1/chat/completions"
        try:
            # Leaving the block early closes the connection; nothing else stops an engine.
            async with self._session.post(url, data=body, headers=headers) as response:
                await self._check(response, prompt.model)
                yield Accepted()
                async for piece in self._pieces(response, prompt.model):
                    yield piece
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise failures.absent() from error
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise failures.lost(_loss(error)) from error

    async def health(self) -> Health:
        """See engines.Engine."""
        if self._session.closed:
            return Health(False, "the engine settings were changed")
        limit = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_SECONDS)
        try:
            async with self._session.get(
                f"{self._endpoint.base_url}{self._dialect.health_path}", timeout=limit
            ) as response:
                await response.read()
                status = response.status
            if status == 200 and not self._context_tokens:
                self._context_tokens = await self._ask_context(limit) or self._endpoint.context_tokens
        except TimeoutError:
            return Health(False, f"the engine at {self.address} does not answer within {HEALTH_TIMEOUT_SECONDS:g} s")
        except (aiohttp.ClientError, ConnectionError) as error:
            self._context_tokens = 0  # another engine may come
            plain = isinstance(error, OSError) and error.errno in NOT_THERE and self._endpoint.socket_path
            why = "" if plain else f" ({_words(error)})"
            return Health(False, f"waiting for the engine at {self.address}{why}")
        if status in (401, 403):
            return Health(False, f"the engine at {self.address} refuses our key (HTTP {status})", answers=True)
        if status >= 500:
            return Health(False, f"the engine at {self.address} is loading its model (HTTP {status})")
        return Health(True, f"the engine at {self.address} answers", answers=True, context_tokens=self._context_tokens)

    async def close(self) -> None:
        """See engines.Engine."""
        await self._session.close()

    async def _check(self, response: aiohttp.ClientResponse, model: str) -> None:
        if response.status != 200:
            body = await response.content.read(LONGEST_ERROR_BYTES)
            body = self._without_key(body)
            retry_after = response.headers.get("Retry-After", "")
            raise failures.of_http(response.status, body, self.address, model, retry_after)
        if "event-stream" not in response.content_type:
            raise NoStreamError(engine=self.address, content_type=response.content_type)

    async def _pieces(self, response: aiohttp.ClientResponse, model: str) -> AsyncGenerator[Piece, None]:
        """Whatever one read brings becomes one piece: a busy engine costs fewer messages, an idle one no delay."""
        reply, parser = Reply(), SseParser()
        while not reply.done:
            chunk = await response.content.readany()
            if not chunk:
                break
            text, tokens, prefilled = "", 0, reply.prefilled
            for event in parser.feed(chunk):
                if (error := reply.take(event)) is not None:
                    raise failures.of_event(error, self.address, model)
                text, tokens = text + reply.text, tokens + reply.tokens
            if tokens:
                yield Text(text, tokens)
            elif reply.prefilled > prefilled:
                yield Prefilled()
        if not reply.finish_reason:
            raise failures.lost("the engine's stream ended before the reply was complete")
        if reply.finish_reason in BROKEN_FINISHES:
            raise failures.lost(f"the engine gave the reply up with '{reply.finish_reason}'")
        yield End(reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)

    async def _ask_context(self, limit: aiohttp.ClientTimeout) -> int:
        async with self._session.get(f"{self._endpoint.base_url}/v1/models", timeout=limit) as response:
            body = await response.content.read(LONGEST_ERROR_BYTES)
        with contextlib.suppress(orjson.JSONDecodeError):
            return context_of(orjson.loads(body), self._endpoint.model)
        return 0

    def _without_key(self, body: bytes) -> bytes:
        """Some endpoints quote the key they refuse; it must not reach a log."""
        key = self._endpoint.api_key.encode()
        return body.replace(key, b"(key)") if key else body


class Reply:
    """What the chunks of one streamed chat completion add up to."""

    def __init__(self) -> None:
        self.text = ""  # of the newest event
        self.tokens = 0  # of the newest event
        self.prefilled = 0
        self.finish_reason = ""
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.done = False

    def take(self, event: bytes) -> Any:
        """One event; returns the error it reports, or None."""
        self.text, self.tokens = "", 0
        if event == DONE:
            self.done = True
            return None
        try:
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            return f"no JSON: {event[:80]!r}"
        if not isinstance(chunk, dict):
            return f"no JSON object: {event[:80]!r}"
        if chunk.get("error"):
            return chunk["error"]
        for choice in chunk.get("choices") or ():
            self._take_choice(choice)
        if usage := chunk.get("usage"):
            self.prompt_tokens = usage.get("prompt_tokens")
            self.completion_tokens = usage.get("completion_tokens")
        if progress := chunk.get("prompt_progress"):
            self.prefilled = 1 + int(progress.get("processed", 0))
        return None

    def _take_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        # Thinking is progress and costs tokens, but is not part of the reply.
        if content := delta.get("content"):
            self.text, self.tokens = self.text + content, self.tokens + 1
        elif delta.get("reasoning_content") or delta.get("reasoning"):
            self.tokens += 1
        self.finish_reason = choice.get("finish_reason") or self.finish_reason


def context_of(models: Any, model: str) -> int:
    """The context window in the answer of /v1/models: vLLM says max_model_len, llama.cpp meta.n_ctx; else 0."""
    entries = [entry for entry in (models.get("data") or ()) if isinstance(entry, dict)]
    named = [entry for entry in entries if entry.get("id") == model] or entries[:1]
    for entry in named:
        meta = entry.get("meta")
        found = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else 0)
        if isinstance(found, int):
            return found
    return 0


def _connector(endpoint: Endpoint) -> aiohttp.BaseConnector:
    if endpoint.socket_path is not None:
        return aiohttp.UnixConnector(path=str(endpoint.socket_path), limit=0, force_close=True)
    return aiohttp.TCPConnector(limit=0)


def _loss(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.SocketTimeoutError):
        return "the engine's connection was cut in mid-stream"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "the engine hung up before it answered"
    return f"the connection to the engine broke ({_words(error)})"


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
