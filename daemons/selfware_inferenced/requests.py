"""A GenerateRequest from the wire turned into a valid Prompt, or one sentence about what is wrong with it.

Pure. Inside, only checked values exist: a bad schema or a negative deadline never reaches an engine.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from selfware_common.rpc import inference_pb2 as pb
from selfware_inferenced.config import Endpoint
from selfware_inferenced.engines import Prompt
from selfware_inferenced.errors import ModelUnknownError, RequestInvalidError
from selfware_inferenced.queue import Priority

ROLES = ("system", "user", "assistant", "tool")


def prompt_of(request: pb.GenerateRequest, endpoint: Endpoint) -> Prompt:
    """Raises RequestInvalidError and ModelUnknownError."""
    if problem := _problem(request):
        raise RequestInvalidError(request_id=request.request_id or "without an id", problem=problem)
    model = request.model or endpoint.model
    if endpoint.provider == "embedded" and model != endpoint.model:
        reason = f"it serves {endpoint.model}"
        raise ModelUnknownError(engine=endpoint.address, model=model, reason=reason)
    return Prompt(
        model=model,
        messages=tuple((message.role, message.content) for message in request.messages),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed if request.HasField("seed") else None,
        stop=tuple(request.stop),
        json_schema=_schema(request),
        priority=priority_of(request),
    )


def priority_of(request: pb.GenerateRequest) -> Priority:
    """Unspecified counts as normal."""
    return Priority(request.priority) if request.priority else Priority.NORMAL


def _problem(request: pb.GenerateRequest) -> str:
    numbers = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "deadline_seconds": request.deadline_seconds,
    }
    for name, value in numbers.items():
        if not math.isfinite(value) or value < 0:
            return f"{name} is {value}, but must be 0 or more"
    if request.priority not in pb.Priority.values():
        return f"priority {request.priority} does not exist"
    if not request.messages:
        return "it has no messages"
    for message in request.messages:
        if message.role not in ROLES:
            return f"the role {message.role!r} does not exist; use one of {', '.join(ROLES)}"
    return ""


def _schema(request: pb.GenerateRequest) -> dict[str, Any] | None:
    if not request.json_schema:
        return None
    problem = "json_schema is not a JSON object"
    try:
        schema = orjson.loads(request.json_schema)
    except orjson.JSONDecodeError as error:
        schema, problem = None, f"json_schema is not valid JSON: {error}"
    if not isinstance(schema, dict):
        raise RequestInvalidError(request_id=request.request_id, problem=problem)
    return schema
