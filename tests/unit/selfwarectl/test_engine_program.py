"""Which engine the foreground stack starts, and that inferenced looks for it where it listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfware_common import paths
from selfware_common.config import parse
from selfware_common.settings import Settings
from selfware_inferenced.config import endpoint
from selfwarectl.foreground import programs_of
from selfwarectl.supervised import Program

PATHS = paths.foreground(Path("/h"))


def settings(**llm: object) -> Settings:
    return parse(Settings, {"llm": llm}, Path("selfware.toml"))


def engine_of(found: Settings) -> Program | None:
    return next((program for program in programs_of(PATHS, found) if program.name == "engine"), None)


@pytest.mark.parametrize(
    ("llm", "kind", "model"),
    [
        ({}, "embedded", "qwen2.5-coder-0.5b"),
        ({"model_path": "/srv/coder.gguf"}, "embedded", "/srv/coder.gguf"),
        ({"provider": "llamacpp", "model": "c", "model_path": "/srv/coder.gguf"}, "embedded", "/srv/coder.gguf"),
        ({"provider": "vllm", "model": "org/coder"}, "vllm", "org/coder"),
        ({"provider": "vllm", "model": "coder", "model_path": "/srv/coder"}, "vllm", "/srv/coder"),
    ],
)
def test_an_engine_of_our_own_listens_where_inferenced_looks(llm: dict[str, object], kind: str, model: str) -> None:
    found = settings(**llm)
    engine = engine_of(found)
    assert engine is not None
    given = dict(zip(engine.argv[3::2], engine.argv[4::2], strict=True))
    assert (given["--provider"], given["--model"], given["--name"]) == (kind, model, found.llm.model)
    assert engine.health_socket == endpoint(found, PATHS).socket_path == Path(given["--socket"])


def test_the_name_of_a_hub_becomes_one_file_name() -> None:
    assert PATHS.engine_socket("org/coder") == Path("/h/run/engine/org-coder.sock")


@pytest.mark.parametrize("provider", ["embedded", "vllm", "llamacpp", "openai", "ollama"])
def test_an_engine_elsewhere_is_not_started_here(provider: str) -> None:
    assert engine_of(settings(provider=provider, base_url="http://gpu:8000/v1")) is None
