"""vLLM as one command: the [llm] settings in, the arguments and the environment of `vllm serve` out.

Pure, but for looking whether the command and the model are on this machine. vLLM is never imported: it lives in an
environment of its own and [llm] vllm_command says how to start it. Nothing is fetched at run time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import grpc

from selfware_common.errors import SelfwareError
from selfware_common.settings import Llm

API_SERVER = "api_server"  # python -m vllm...api_server takes --model where `vllm serve` takes a bare word
COMPACT_JSON = '{"backend": "guidance", "disable_any_whitespace": true}'
"""Measured: a tool call of 20 tokens took 56 with vLLM's default, and a small model may go on with blanks for ever."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
OURS_ALONE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class VllmMissingError(SelfwareError):
    """There is no command {command} to start vLLM with."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code: ClassVar[int] = 78  # EX_CONFIG
    hint = (
        "Install vLLM in an environment of its own ('python3 -m venv /opt/vllm && /opt/vllm/bin/pip install vllm') "
        'and set [llm] vllm_command = ["/opt/vllm/bin/vllm"].'
    )


class VllmModelMissingError(SelfwareError):
    """The model {model} is not on this machine: {looked} does not exist."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code: ClassVar[int] = 66  # EX_NOINPUT
    hint = "Download it once and set [llm] model_path to its directory; nothing is fetched at run time."


def check(llm: Llm, env: Mapping[str, str] = os.environ) -> None:
    """Raises VllmMissingError and VllmModelMissingError, which vLLM itself would report in a hundred lines."""
    command = llm.vllm_command[0] if llm.vllm_command else "''"
    if shutil.which(command, path=env.get("PATH")) is None:
        raise VllmMissingError(command=command)
    wanted = llm.model_path or llm.model
    place = Path(wanted) if _is_path(wanted) else hub_directory(wanted, env)
    if not place.exists():
        raise VllmModelMissingError(model=wanted, looked=place)


def argv(llm: Llm, socket_path: Path) -> tuple[str, ...]:
    """The whole command line."""
    wanted = llm.model_path or llm.model
    model = ("--model", wanted) if llm.vllm_command[-1].endswith(API_SERVER) else ("serve", wanted)
    return (
        *llm.vllm_command,
        *model,
        *("--served-model-name", llm.model),
        *("--uds", str(socket_path)),
        *("--tensor-parallel-size", str(llm.tensor_parallel_size)),
        *("--gpu-memory-utilization", str(llm.gpu_memory_utilization)),
        *("--max-model-len", str(llm.max_model_len)),
        *("--max-num-seqs", str(llm.max_num_seqs)),
        _switch("enable-prefix-caching", llm.enable_prefix_caching),
        _switch("enable-chunked-prefill", llm.enable_chunked_prefill),
        *("--scheduling-policy", "priority"),
        *("--structured-outputs-config", COMPACT_JSON),
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
        "--disable-uvicorn-access-log",  # a line for every look at /health says nothing
        *llm.vllm_arguments,  # last: the later of two equal options counts
    )


def environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Ours, without what is meant for our own interpreter and supervisor, and without any reason to go online."""
    kept = {name: value for name, value in env.items() if name not in OURS_ALONE}
    return {"VLLM_HOST_IP": "127.0.0.1", **kept, **OFFLINE}


def own_name(model: str) -> str:
    """What clients call a model that nobody named: the last part of a path, the whole name of a hub's model."""
    return Path(model).name if _is_path(model) else model


def hub_directory(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """Where a model of a hub lies once it was downloaded with the hub's own tool."""
    cache = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
    home = Path(env.get("HF_HOME") or f"{cache}/huggingface")
    hub = Path(env.get("HF_HUB_CACHE") or home / "hub")
    return hub / f"models--{name.replace('/', '--')}" / "snapshots"


def _is_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).exists()


def _switch(name: str, on: bool) -> str:
    return f"--{name}" if on else f"--no-{name}"
