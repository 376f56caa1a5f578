"""How the providers differ: the few words that each needs beside the common request.

Pure. The common request is what vLLM, llama.cpp, Ollama and hosted endpoints all accept; a difference belongs here
and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selfware_inferenced.engines import Prompt


@dataclass(frozen=True)
class Dialect:
    """One provider's ways."""

    health_path: str = "/v1/models"
    extra: dict[str, Any] = field(default_factory=dict)
    priorities: bool = False  # takes "priority", the lowest number first


# return_progress: llama.cpp then writes to the stream while it reads the prompt, so that a long prompt is no stall
# and hanging up is noticed between two batches of it.
_LLAMA_CPP = Dialect(health_path="/health", extra={"return_progress": True})
# With --scheduling-policy priority, which somebody else's vLLM may lack and then answers 400. Our queue keeps it from
# having to choose whom to admit; it still chooses whose memory to take when the KV cache is full.
_OWN_VLLM = Dialect(health_path="/health", priorities=True)
_DIALECTS = {
    "embedded": _LLAMA_CPP,
    "llamacpp": _LLAMA_CPP,
    "vllm": Dialect(health_path="/health"),
    "ollama": Dialect(),
    "openai": Dialect(),
}


def of(provider: str, own: bool = False) -> Dialect:
    """The dialect of a provider named in [llm] provider; `own`: Selfware started it, and knows with what options."""
    if provider == "vllm" and own:
        return _OWN_VLLM
    return _DIALECTS.get(provider, Dialect())


def request_body(prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
    """The JSON of POST /v1/chat/completions: always streamed, because only a stream notices that we hung up."""
    body: dict[str, Any] = {
        "model": prompt.model,
        "messages": [{"role": role, "content": content} for role, content in prompt.messages],
        "temperature": prompt.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        **dialect.extra,
    }
    if dialect.priorities:
        body["priority"] = -prompt.priority
    if prompt.max_tokens:
        body["max_tokens"] = prompt.max_tokens
    if prompt.top_p:
        body["top_p"] = prompt.top_p
    if prompt.seed is not None:
        body["seed"] = prompt.seed
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.json_schema is not None:
        wanted = {"name": "reply", "schema": prompt.json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return body
