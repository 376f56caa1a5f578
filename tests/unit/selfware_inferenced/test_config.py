"""Where the engine is, and how much of it may be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfware_common import paths, settings
from selfware_common.config import parse
from selfware_common.errors import ConfigError
from selfware_inferenced.config import endpoint, limits

PATHS = paths.foreground(Path("/h"))


def llm(**table: object) -> settings.Settings:
    return parse(settings.Settings, {"llm": table}, Path("selfware.toml"))


@pytest.mark.parametrize(
    ("table", "url", "address"),
    [
        ({"model": "m"}, "http://engine", "/h/run/engine/m.sock"),
        ({"provider": "vllm", "model": "m"}, "http://engine", "/h/run/engine/m.sock"),
        ({"base_url": "unix:/x/e.sock"}, "http://engine", "/x/e.sock"),
        ({"base_url": "unix:///x/e.sock"}, "http://engine", "/x/e.sock"),
        ({"provider": "openai", "base_url": "http://gpu:8000/v1/"}, "http://gpu:8000", "http://gpu:8000"),
        ({"provider": "openai", "base_url": "https://gpu/x"}, "https://gpu/x", "https://gpu/x"),
        ({"provider": "ollama"}, "http://127.0.0.1:11434", "http://127.0.0.1:11434"),
    ],
)
def test_an_engine_is_a_socket_or_a_url(table: dict[str, object], url: str, address: str) -> None:
    found = endpoint(llm(**table), PATHS)
    assert (found.base_url, found.address) == (url, address)


@pytest.mark.parametrize("table", [{"provider": "openai"}, {"base_url": "gpu:8000"}])
def test_an_address_outside_is_never_guessed(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"must be http://host:port/v1 or unix:/path"):
        endpoint(llm(**table), PATHS)


def test_the_key_is_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret\n")
    found = endpoint(llm(provider="ollama", api_key_file=str(tmp_path / "key")), PATHS)
    assert found.api_key == "sk-secret"
    assert "sk-secret" not in repr(found)
    with pytest.raises(ConfigError, match="cannot be read"):
        endpoint(llm(provider="ollama", api_key_file=str(tmp_path / "none")), PATHS)


def test_no_more_requests_run_than_queue_quota_and_slots_allow() -> None:
    def concurrent(**table: object) -> int:
        config = llm(**table)
        return limits(config, endpoint(config, PATHS)).max_concurrent

    assert concurrent(queue={"max_concurrent": 1}) == 1
    assert concurrent(queue={"max_concurrent": 9}, max_num_seqs=3) == 3
    assert concurrent(provider="vllm", queue={"max_concurrent": 9}, max_num_seqs=3) == 3
    assert concurrent(provider="vllm", base_url="http://gpu:8000/v1", queue={"max_concurrent": 9}, max_num_seqs=3) == 4
    assert concurrent(provider="ollama", queue={"max_concurrent": 9}, max_num_seqs=3) == 4
