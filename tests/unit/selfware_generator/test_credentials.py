"""Credentials are found by their names, and only those that are ours."""

from __future__ import annotations

from pathlib import Path

from selfware_generator.credentials import cold, find, keys


def lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_nothing_is_found_where_nothing_lies(tmp_path: Path) -> None:
    assert find(tmp_path) == {}
    assert keys({}) == []
    assert all(line.startswith("LoadCredential=checkpoint.cold.") for line in cold({}))


def test_keys_are_found_in_every_store_and_an_encrypted_one_comes_first(tmp_path: Path) -> None:
    lay(tmp_path, "etc/credstore/checkpoint-key", "etc/credstore.encrypted/checkpoint-key")
    lay(tmp_path, "run/credstore/checkpoint-key-2025", "usr/lib/credstore/checkpoint.cold.access_key_id")
    found = find(tmp_path)
    assert keys(found) == ["LoadCredentialEncrypted=checkpoint-key", "LoadCredential=checkpoint-key-2025"]
    assert "LoadCredential=checkpoint.cold.access_key_id" in cold(found)


def test_other_names_get_into_no_unit(tmp_path: Path) -> None:
    names = (
        "checkpoint-keys",
        "checkpoint-key.new",
        ".checkpoint-key.new",
        "checkpoint-key-a b",
        "checkpoint-key-%n",
        "x",
    )
    lay(tmp_path, *(f"etc/credstore/{name}" for name in names), "etc/credstore/checkpoint-key-\nExecStart=x")
    assert find(tmp_path) == {}
