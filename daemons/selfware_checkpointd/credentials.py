"""Where the keys come from: systemd's credentials, or, without systemd, one file that only its owner may read.

    $CREDENTIALS_DIRECTORY/checkpoint-key      the key that encrypts; more keys in it only decrypt
    $CREDENTIALS_DIRECTORY/checkpoint-key-*    further keys that only decrypt, in the order of their names
    [checkpoint.encryption] key_file           as the first of these, instead of it if it is set

Keys are taken also when encryption is off: what was encrypted before stays readable. Owns nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from selfware_checkpointd.errors import KeyUnusableError
from selfware_checkpointd.vault import NO_VAULT, Vault
from selfware_common.settings import Encryption
from selfware_common.state.keys import parse_keys

CREDENTIAL = "checkpoint-key"


def open_vault(settings: Encryption, environment: Mapping[str, str]) -> Vault:
    """The vault with all keys that there are; KeyUnusableError if there should be one, or one is not right."""
    given = environment.get("CREDENTIALS_DIRECTORY")
    first, others = Path(settings.key_file), list[Path]()
    if given:
        others = sorted(Path(given).glob(CREDENTIAL + "-*"))
    if settings.key_file:
        _refuse_if_others_may_read(first)
    elif given:
        first = Path(given) / CREDENTIAL
    elif settings.enabled:
        raise KeyUnusableError(
            path=f"systemd gave no credential {CREDENTIAL},", problem="and [checkpoint.encryption] key_file is empty"
        )
    else:
        return NO_VAULT
    keys = _read(first, is_needed=settings.enabled or bool(settings.key_file))
    for path in others:
        keys += _read(path, is_needed=True)
    return Vault(keys, settings.enabled)


def _read(path: Path, is_needed: bool) -> list[bytes]:
    try:
        return parse_keys(path.read_bytes())
    except FileNotFoundError as error:
        if not is_needed:
            return []
        raise KeyUnusableError(path=path, problem="is not there") from error
    except OSError as error:
        raise KeyUnusableError(path=path, problem=f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise KeyUnusableError(path=path, problem=str(error)) from error


def _refuse_if_others_may_read(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # reading says it better
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyUnusableError(path=path, problem=f"may be read by others: run 'chmod 600 {path}'")
