"""Whether a proof runs on a store that is encrypted; told to the processes of a proof through the environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from selfware_checkpointd.vault import NO_VAULT, Vault

VARIABLE = "SELFWARE_PROVE_ENCRYPTED"
KEYS = [bytes(range(32)), bytes(range(32, 64))]


def vault() -> Vault:
    """With the key that everything is sealed with, and one that is never the right one."""
    return Vault(KEYS) if os.environ.get(VARIABLE) else NO_VAULT


@contextlib.contextmanager
def encrypted(is_wanted: bool) -> Iterator[None]:
    """What is proved meanwhile is proved on such a store, or on a plain one."""
    before = os.environ.pop(VARIABLE, None)
    if is_wanted:
        os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before
