"""Which keys checkpointd takes, and what it says when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfware_checkpointd.credentials import open_vault
from selfware_checkpointd.errors import KeyUnusableError
from selfware_checkpointd.vault import NO_VAULT
from selfware_common.settings import Encryption
from selfware_common.state.keys import key_id, parse_keys

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
ON, OFF = Encryption(enabled=True), Encryption()


def credentials(directory: Path, **files: bytes) -> dict[str, str]:
    for name, data in files.items():
        (directory / name.replace("_", "-")).write_bytes(data)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_a_file_holds_one_raw_key_or_some_in_hexadecimal() -> None:
    assert parse_keys(FIRST) == [FIRST]
    assert parse_keys(FIRST.hex().encode()) == [FIRST]
    assert parse_keys(f"{FIRST.hex()}\n\n{SECOND.hex().upper()}\n".encode()) == [FIRST, SECOND]


@pytest.mark.parametrize("data", [b"", b"\n", b"short", FIRST + b"\n", FIRST.hex().encode() + b"0", b"z" * 64])
def test_what_is_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_keys(data)
    with pytest.raises(KeyUnusableError, match=r"checkpoint-key (is empty|holds neither)"):
        open_vault(ON, credentials(tmp_path, checkpoint_key=data))


def test_the_first_key_seals_and_all_others_open(tmp_path: Path) -> None:
    both = f"{FIRST.hex()}\n{SECOND.hex()}\n".encode()
    vault = open_vault(ON, credentials(tmp_path, checkpoint_key=both, checkpoint_key_2025=THIRD))
    assert vault.key_id == key_id(FIRST)
    assert all(vault.opens(key_id(key)) for key in (FIRST, SECOND, THIRD))
    assert not vault.opens(key_id(b"x" * 32))


def test_with_encryption_off_keys_only_open(tmp_path: Path) -> None:
    vault = open_vault(OFF, credentials(tmp_path, checkpoint_key=FIRST))
    assert vault.key_id is None and vault.opens(key_id(FIRST))
    assert open_vault(OFF, {}) is NO_VAULT
    (tmp_path / "empty").mkdir()
    assert open_vault(OFF, credentials(tmp_path / "empty")).key_id is None


def test_encryption_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusableError, match="systemd gave no credential checkpoint-key"):
        open_vault(ON, {})
    with pytest.raises(KeyUnusableError, match="checkpoint-key is not there"):
        open_vault(ON, credentials(tmp_path))


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(FIRST)
    path.chmod(0o640)
    settings = Encryption(enabled=True, key_file=str(path))
    with pytest.raises(KeyUnusableError, match=f"chmod 600 {path}"):
        open_vault(settings, {})
    path.chmod(0o400)
    assert open_vault(settings, {}).key_id == key_id(FIRST)
    with pytest.raises(KeyUnusableError, match="is not there"):
        open_vault(Encryption(enabled=True, key_file=str(tmp_path / "other")), {})
