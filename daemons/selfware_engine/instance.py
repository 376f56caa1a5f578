"""Which model an instance of selfware-engine@.service serves: its name says it, selfware.toml the rest."""

from __future__ import annotations

import argparse
import re

from selfware_common import settings
from selfware_common.paths import Paths

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def arguments(given: argparse.Namespace, where: Paths) -> argparse.Namespace:
    """The command line that the settings mean for this instance. A model that is not the one of [llm] is served by
    the embedded engine."""
    llm = settings.load(where.config_file).llm
    model = unescape(given.instance)
    configured = model == llm.model
    return argparse.Namespace(
        provider="vllm" if configured and llm.provider == "vllm" else "embedded",
        model=(llm.model_path or model) if configured else model,
        name=model,
        socket=where.engine_socket(model),
        slots=given.slots or llm.max_num_seqs,
        context=given.context or llm.max_model_len,
        threads=given.threads,
        stall_timeout=given.stall_timeout or llm.stall_timeout_seconds,
        instance=given.instance,
    )


def unescape(instance: str) -> str:
    """What systemd-escape made of a name, undone (systemd.unit(5)): "-" is "/", "\\x2d" is "-"."""
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), instance.replace("-", "/"))
    return raw.encode("latin-1").decode("utf-8", "replace")
