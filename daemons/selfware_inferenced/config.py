"""What selfware-inferenced reads from selfware.toml: where the engine is and how much of it may be used.

Pure but for reading the key file. An endpoint without a base_url is Selfware's own engine unit where the provider
can be one; an address outside this machine is never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from selfware_common.errors import ConfigError
from selfware_common.paths import Paths
from selfware_common.settings import Settings

OWN_ENGINES = frozenset({"embedded", "llamacpp", "vllm"})  # served by selfware-engine@ on a Unix socket
OLLAMA_URL = "http://127.0.0.1:11434"
LOCAL_CHECK_SECONDS = 2.0


@dataclass(frozen=True)
class Endpoint:
    """Where one engine is and how to speak to it."""

    provider: str
    model: str
    base_url: str  # without a trailing /v1
    socket_path: Path | None = None
    api_key: str = field(default="", repr=False)
    context_tokens: int = 0  # where the engine does not say
    own: bool = False  # started by Selfware itself, with the settings of [llm]

    @property
    def address(self) -> str:
        return str(self.socket_path) if self.socket_path is not None else self.base_url


@dataclass(frozen=True)
class Limits:
    """How much may go on at once, and how long nothing may happen."""

    max_concurrent: int = 2
    max_waiting: int = 1000
    preemption: bool = True
    stall_timeout_seconds: float = 120.0
    max_losses: int = 20
    check_seconds: float = LOCAL_CHECK_SECONDS


def endpoint(settings: Settings, paths: Paths) -> Endpoint:
    """Raises ConfigError when [llm] names no place where an engine could be."""
    llm = settings.llm
    url, socket_path = llm.base_url, None
    if not url and llm.provider in OWN_ENGINES:
        socket_path = paths.engine_socket(llm.model)
    elif not url and llm.provider == "ollama":
        url = OLLAMA_URL
    elif url.startswith("unix:"):
        socket_path = Path(url.removeprefix("unix:").replace("///", "/", 1)).absolute()
    elif not url.startswith(("http://", "https://")):
        problem = f"'llm.base_url' is {url!r}, but must be http://host:port/v1 or unix:/path/engine.sock"
        raise ConfigError(path=paths.config_file, problem=problem)
    return Endpoint(
        provider=llm.provider,
        model=llm.model,
        base_url="http://engine" if socket_path is not None else url.rstrip("/").removesuffix("/v1"),
        socket_path=socket_path,
        api_key=_key(llm.api_key_file, paths),
        context_tokens=llm.max_model_len if llm.provider in OWN_ENGINES else 0,
        own=not llm.base_url and llm.provider in OWN_ENGINES,
    )


def limits(settings: Settings, where: Endpoint) -> Limits:
    """An engine of our own decodes max_num_seqs at once; more would wait inside it, where there are no priorities."""
    llm, quotas = settings.llm, settings.resources.quotas
    concurrent = min(llm.queue.max_concurrent, quotas.max_concurrent_requests)
    if where.own:
        concurrent = min(concurrent, llm.max_num_seqs)
    local = where.socket_path is not None
    return Limits(
        max_concurrent=concurrent,
        max_waiting=quotas.max_queued_tasks,
        preemption=llm.queue.enable_preemption,
        stall_timeout_seconds=llm.stall_timeout_seconds,
        check_seconds=LOCAL_CHECK_SECONDS if local else settings.supervision.health_check.interval_seconds,
    )


def _key(path: str, paths: Paths) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"'llm.api_key_file' {path} cannot be read: {error}"
        raise ConfigError(path=paths.config_file, problem=problem) from None
