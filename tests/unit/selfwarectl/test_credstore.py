"""Where a key goes: what --install leaves on the disk, with a stand-in for systemd-creds and none for the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfware_common import paths
from selfware_common.paths import Paths
from selfwarectl import credstore, units

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
CREDS = """#!/bin/sh
# "Encrypts" by writing the name before it, and refuses another name, as the real one does.
name=${2#--name=}
case $1 in
  encrypt) echo "sealed for $name"; cat ;;
  decrypt)
    read -r line <"$3"
    [ "$line" = "sealed for $name" ] || { echo "Bad message" >&2; exit 1; }
    tail -n +2 "$3" ;;
esac
"""


class Machine:
    """An installed one, as far as this command looks."""

    def __init__(self, root: Path) -> None:
        self.encrypted, self.plain = root / "credstore.encrypted", root / "credstore"
        self.settings = root / "etc"
        (self.settings / "selfware.toml.d").mkdir(parents=True)
        self.asked: list[tuple[str, ...]] = []

    def set(self, name: str, text: str) -> None:
        (self.settings / "selfware.toml.d" / name).write_text(text, encoding="utf-8")

    def mode(self, path: Path) -> int:
        return path.stat().st_mode & 0o777

    @property
    def credential(self) -> Path:
        return self.encrypted / "checkpoint-key"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemd-creds").write_text(CREDS)
    (tmp_path / "bin/systemd-creds").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(credstore, "ENCRYPTED", made.encrypted)
    monkeypatch.setattr(credstore, "PLAIN", made.plain)
    monkeypatch.setattr(paths, "system", lambda: Paths(made.settings, tmp_path / "state", tmp_path / "run"))
    monkeypatch.setattr(units, "require_installed", lambda: None)
    monkeypatch.setattr(units, "systemctl", lambda *words: made.asked.append(words))
    monkeypatch.setattr(credstore, "_is_running", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def install(key: bytes) -> None:
    credstore.install(key, credstore.present())


def test_the_first_key_is_for_root_alone_and_the_setting_for_everybody_whatever_the_umask(machine: Machine) -> None:
    before = os.umask(0o077)
    try:
        install(FIRST)
    finally:
        os.umask(before)
    assert credstore.present() == [FIRST]
    assert (machine.mode(machine.encrypted), machine.mode(machine.credential)) == (0o700, 0o600)
    drop_in = machine.settings / "selfware.toml.d/60-encryption.toml"
    assert machine.mode(drop_in) == 0o644
    assert machine.asked == [("daemon-reload",), ("restart", "selfware-checkpointd.service")]
    assert [path.name for path in machine.encrypted.iterdir()] == ["checkpoint-key"]


def test_a_new_key_comes_first_and_none_is_forgotten(machine: Machine) -> None:
    for key in (FIRST, SECOND, THIRD):
        install(key)
    assert credstore.present() == [THIRD, SECOND, FIRST]


def test_a_key_that_was_not_encrypted_is_kept_as_well(machine: Machine) -> None:
    machine.plain.mkdir()
    (machine.plain / "checkpoint-key").write_bytes(FIRST)
    install(SECOND)
    assert credstore.present() == [SECOND, FIRST]


def test_a_credential_that_cannot_be_read_is_never_written_over(machine: Machine) -> None:
    machine.encrypted.mkdir()
    machine.credential.write_text("sealed for something else\n")
    with pytest.raises(credstore.CredentialError, match=r"Cannot decrypt .*checkpoint-key: systemd-creds: Bad message"):
        install(FIRST)
    assert machine.credential.read_text() == "sealed for something else\n"
    assert not machine.asked


def test_a_setting_that_stands_against_it_is_said(machine: Machine) -> None:
    machine.set("70-mine.toml", "[checkpoint.encryption]\nenabled = false\n")
    with pytest.raises(credstore.NotInForceError, match=r"a later file in .* says 'enabled = false'"):
        install(FIRST)
    machine.set("70-mine.toml", '[checkpoint.encryption]\nenabled = true\nkey_file = "/etc/key"\n')
    with pytest.raises(credstore.NotInForceError, match=r"'key_file' in .* names another one, /etc/key"):
        install(FIRST)


def test_only_root_may(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(credstore.NotRootError):
        credstore.present()
