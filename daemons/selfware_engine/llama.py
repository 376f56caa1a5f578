"""llama.cpp as one object: parameters in, a serving Unix socket out.

Owns every parameter given to the xllamacpp library, and the reasons for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import grpc

from selfware_common.errors import SelfwareError

CACHE_RAM_MIB = 256
"""Prompts kept outside the slots. llama.cpp's own default of 8 GiB would starve a small machine."""
ERRORS_ONLY = 1


class EngineMissingError(SelfwareError):
    """The embedded engine is not installed: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code: ClassVar[int] = 69  # EX_UNAVAILABLE
    hint = "Install Selfware with the extra 'embedded', or set [llm] provider and base_url to another engine."


class ModelLoadError(SelfwareError):
    """llama.cpp could not load {path} with {slots} slots of {context_tokens} tokens; its own reason is above."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code: ClassVar[int] = 65  # EX_DATAERR
    hint = "Is it a complete GGUF file, and is there memory for it? A smaller --context needs less."


@dataclass(frozen=True)
class Settings:
    """What one engine serves, and with how much of the machine."""

    model_path: Path
    model_name: str
    socket_path: Path
    slots: int = 2
    """Requests decoded at the same time."""
    context_tokens: int = 8192
    """Tokens one request may use: prompt and answer together."""
    threads: int = 0
    """0 = all cores but one: on all cores decoding collapses as soon as anything else runs."""
    stall_timeout_seconds: float = 120.0
    """Requests run and nothing was computed for so long: it counts as dead."""

    @property
    def threads_used(self) -> int:
        return self.threads or max(1, len(os.sched_getaffinity(0)) - 1)


class Llama:
    """A serving llama.cpp: healthy once constructed, served by the library's own threads until the process ends.

    There is no close(): the library's destructor waits for every open stream (30 s were seen) while it holds the
    interpreter lock. The engine remembers nothing, so the process just ends.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise EngineMissingError(reason=error) from error
        params = xllamacpp.CommonParams()
        params.model.path = str(settings.model_path)
        params.model_alias = {settings.model_name}
        params.hostnames = [str(settings.socket_path)]
        params.n_parallel = settings.slots
        # llama.cpp divides n_ctx among the slots.
        params.n_ctx = settings.context_tokens * settings.slots
        params.cpuparams.n_threads = settings.threads_used
        params.cpuparams_batch.n_threads = settings.threads_used
        params.cache_ram_mib = CACHE_RAM_MIB
        # A context that does not fit is an error, not a silently smaller context.
        params.fit_params = False
        params.ui = False
        params.offline = True
        params.endpoint_metrics = True
        params.verbosity = ERRORS_ONLY
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelLoadError(
                path=settings.model_path, slots=settings.slots, context_tokens=settings.context_tokens
            ) from error
