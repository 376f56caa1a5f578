"""Where a key goes on an installed machine: the credential that systemd gives to checkpointd alone, and the setting.

What was there stays readable: the keys that the credential held follow the new one in it, line by line, and only
decrypt. It is replaced whole; whoever dies before the rename leaves the old one. Owns
/etc/credstore.encrypted/checkpoint-key and selfware.toml.d/60-encryption.toml.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

from selfware_common import paths, settings
from selfware_common.errors import SelfwareError
from selfware_common.state.keys import parse_keys
from selfwarectl import units

CREDENTIAL = "checkpoint-key"
ENCRYPTED = Path("/etc/credstore.encrypted")
PLAIN = Path("/etc/credstore")
SETTING = "60-encryption.toml"
UNIT = "selfware-checkpointd.service"
COMMAND_SECONDS = 60


class NotRootError(SelfwareError):
    """Only root may put a key into {directory}."""

    exit_code: ClassVar[int] = 4
    hint = "Try again with sudo."


class CredentialError(SelfwareError):
    """Cannot {what} {path}: {reason}."""

    exit_code: ClassVar[int] = 1
    hint = (
        "Nothing was changed. If that file is broken, make it again from your copy of the key, with 'systemd-creds "
        "encrypt' (docs/installing.md, 'Encryption')."
    )


class NotInForceError(SelfwareError):
    """The key is in {path}, but {problem}."""

    exit_code: ClassVar[int] = 1
    hint = "Then 'sudo systemctl daemon-reload' and 'sudo systemctl restart selfware-checkpointd'."


def present() -> list[bytes]:
    """The keys that checkpointd has now. Raises if install() cannot work here: before a key is made for nothing."""
    units.require_installed()
    if os.geteuid():
        raise NotRootError(directory=ENCRYPTED)
    path = ENCRYPTED / CREDENTIAL
    try:
        if path.exists():
            return parse_keys(_creds("decrypt", path, [f"--name={CREDENTIAL}", str(path), "-"], b""))
        path = PLAIN / CREDENTIAL
        return parse_keys(path.read_bytes()) if path.exists() else []
    except (OSError, ValueError) as error:
        raise CredentialError(what="read", path=path, reason=error) from error


def install(key: bytes, older: list[bytes]) -> None:
    """Make this the key that encrypts, let the older ones decrypt, and restart checkpointd if Selfware runs."""
    lines = "".join(f"{one.hex()}\n" for one in [key, *older])
    path = ENCRYPTED / CREDENTIAL
    sealed = _creds("encrypt", path, [f"--name={CREDENTIAL}", "-", "-"], lines.encode())
    try:
        ENCRYPTED.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, sealed, 0o600)
    except OSError as error:
        raise CredentialError(what="write", path=path, reason=error.strerror or error) from error
    _switch_on(path)
    units.systemctl("daemon-reload")
    if _is_running():
        try:
            units.systemctl("restart", UNIT)
        except SelfwareError as error:
            problem = f"checkpointd does not start with it ('journalctl -u {UNIT} -n 20' says why): {error.sentence}"
            raise NotInForceError(path=path, problem=problem) from None


def _creds(verb: str, path: Path, words: list[str], data: bytes) -> bytes:
    """systemd-creds: the key passes through pipes, never through arguments or a file that others may read."""
    argv = ["systemd-creds", verb, *words]
    try:
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CredentialError(what=verb, path=path, reason=f"systemd-creds: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split()) or f"it ended with {done.returncode}"
        raise CredentialError(what=verb, path=path, reason=f"systemd-creds: {said}")
    return done.stdout


def _switch_on(credential: Path) -> None:
    """Write the setting unless it is there; NotInForceError if another one stands against it."""
    source = paths.system().config_file
    found = settings.load(source).checkpoint.encryption
    if not found.enabled:
        drop_in = Path(f"{source}.d") / SETTING
        drop_in.parent.mkdir(exist_ok=True)
        _replace(drop_in, b"[checkpoint.encryption]\nenabled = true\n", 0o644)
        found = settings.load(source).checkpoint.encryption
    if not found.enabled:
        problem = f"a later file in {source}.d says 'enabled = false' in [checkpoint.encryption]: take that out"
        raise NotInForceError(path=credential, problem=problem)
    if found.key_file:
        problem = f"'key_file' in [checkpoint.encryption] names another one, {found.key_file}: take that out"
        raise NotInForceError(path=credential, problem=problem)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Durable and whole, whatever the umask."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as writing:
        writing.write(data)
        writing.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_running() -> bool:
    """Somebody wants Selfware to run, also if checkpointd just failed."""
    asked = subprocess.run(["systemctl", "is-active", "--quiet", units.TARGET], check=False)
    return asked.returncode == 0
