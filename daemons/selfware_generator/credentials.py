"""Which credentials lie on this machine for checkpointd, by their names: what is in them only systemd reads.

A `LoadCredential=` without a path makes systemd look into these directories (systemd.exec(5)), and one that is missing
there is no error. It understands no pattern before systemd 254, and it starts no such unit in some containers, so each
key that lies there is named, and no other.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

PLAIN = ("run/credentials/@system", "etc/credstore", "run/credstore", "usr/local/lib/credstore", "usr/lib/credstore")
ENCRYPTED = (
    "run/credentials/@encrypted",
    "etc/credstore.encrypted",
    "run/credstore.encrypted",
    "usr/local/lib/credstore.encrypted",
    "usr/lib/credstore.encrypted",
)
KEY = re.compile(r"checkpoint-key(-[A-Za-z0-9._-]{1,100})?")
COLD = ("checkpoint.cold.access_key_id", "checkpoint.cold.secret_access_key", "checkpoint.cold.session_token")

Found = Mapping[str, bool]
"""Name of each credential, and whether systemd has to decrypt it."""


def find(root: Path = Path("/")) -> Found:
    """Those that lie below `root`; an encrypted one comes before a plain one of the same name."""
    found: dict[str, bool] = {}
    for directories, is_encrypted in ((PLAIN, False), (ENCRYPTED, True)):
        for directory in directories:
            with contextlib.suppress(OSError):  # most are not there
                names = [path.name for path in (root / directory).iterdir()]
                found |= {name: is_encrypted for name in names if is_ours(name)}
    return found


def is_ours(name: str) -> bool:
    """A name for checkpointd, and harmless in a unit."""
    return KEY.fullmatch(name) is not None or name in COLD


def keys(found: Found) -> list[str]:
    """The lines of a unit that get the keys of the store; also with encryption off, for what was encrypted before."""
    return [_line(name, is_encrypted) for name, is_encrypted in sorted(found.items()) if KEY.fullmatch(name)]


def cold(found: Found) -> list[str]:
    """The lines that get the keys of an S3 store, whether they lie there yet or not."""
    return [_line(name, found.get(name, False)) for name in COLD]


def _line(name: str, is_encrypted: bool) -> str:
    return f"LoadCredential{'Encrypted' if is_encrypted else ''}={name}"
