"""`stub_engine.py SOCKET`: an OpenAI-compatible engine that does what the last message says, for test_inferenced.

The message is `key=value` words: `words=5 delay=0.1` streams "w0 w1 …"; `status=500`, `cut=2` (connection closed after
two words), `unfinished=2`, `error=2` (error inside the stream) and `stall=2` happen to the first `times` requests
with that message. What it was asked, and who hung up, is appended to SOCKET.log as JSON lines.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
from pathlib import Path

from aiohttp import web

SOCKET = Path(sys.argv[1])
SEEN: collections.Counter[str] = collections.Counter()


def note(**entry: object) -> None:
    with SOCKET.with_name(SOCKET.name + ".log").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    message = body["messages"][-1]["content"]
    plan = dict(word.split("=", 1) for word in message.split())
    note(asked=message, body=body)
    SEEN[message] += 1
    troubled = SEEN[message] <= int(plan.get("times", 1))
    if troubled and "status" in plan:
        error = {"message": plan.get("says", "no").replace("_", " "), "type": "stub"}
        return web.json_response({"error": error}, status=int(plan["status"]))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    try:
        return await stream(request, response, plan if troubled else {**plan, "cut": "", "error": "", "stall": ""})
    except (ConnectionResetError, asyncio.CancelledError):
        note(gone=message)
        raise


async def stream(request: web.Request, response: web.StreamResponse, plan: dict[str, str]) -> web.StreamResponse:
    async def send(value: object) -> None:
        await response.write(f"data: {json.dumps(value)}\n\n".encode())

    words = int(plan.get("words", 3))
    for number in range(words):
        if plan.get("cut") == str(number):
            assert request.transport is not None
            request.transport.close()
            return response
        if plan.get("error") == str(number):
            await send({"error": {"message": "worker died", "code": 500}})
            await response.write(b"data: [DONE]\n\n")
            return response
        while plan.get("stall") == str(number):
            await asyncio.sleep(0.1)
            await response.write(b": still here\n\n")
        if plan.get("unfinished") == str(number):
            return response
        await send({"choices": [{"index": 0, "delta": {"content": f"w{number} "}, "finish_reason": None}]})
        await asyncio.sleep(float(plan.get("delay", 0)))
    await send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    await send({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": words}})
    await response.write(b"data: [DONE]\n\n")
    return response


async def health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def models(_request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "stub", "meta": {"n_ctx": 4096}}]})


def main() -> None:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", chat)
    application.router.add_get("/health", health)
    application.router.add_get("/v1/models", models)
    SOCKET.parent.mkdir(parents=True, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    web.run_app(application, path=str(SOCKET), print=None, handler_cancellation=True, shutdown_timeout=0.1)


if __name__ == "__main__":
    main()
