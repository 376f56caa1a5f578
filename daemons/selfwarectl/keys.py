"""`checkpoints new-key`: a key to encrypt checkpoints and journals with. Where keys are used: checkpointd's `vault`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from selfware_common.errors import SelfwareError

STEPS = """\
This is key {key_id}. Keep a copy of it away from this machine: without it nobody reads what it encrypts.
On an installed machine 'sudo selfwarectl checkpoints new-key --install' makes a key and does what follows. By hand:
  sudo mkdir -p -m 700 /etc/credstore.encrypted
  sudo systemd-creds encrypt --name=checkpoint-key {file} /etc/credstore.encrypted/checkpoint-key
  printf '[checkpoint.encryption]\\nenabled = true\\n' |
    sudo install -m 644 /dev/stdin /etc/selfware/selfware.toml.d/60-encryption.toml
  sudo systemctl daemon-reload && sudo systemctl restart selfware-checkpointd
A store that is encrypted already keeps its old key beside this one: docs/installing.md, 'Encryption'.
Without systemd, in selfware.toml: [checkpoint.encryption] enabled = true, and key_file = "..." (chmod 600)."""
INSTALLED = """\
checkpointd encrypts with key {key_id} from now on; keys from before that still decrypt: {older}.
What lies there already is encrypted by and by; 'selfwarectl checkpoints tidy' does it now.
Keep a copy of the key away from this machine, and none on it: what it encrypts is lost with the machine otherwise."""


class NoKeyMadeError(SelfwareError):
    """Cannot write a key to {path}: {reason}."""

    exit_code = 1
    hint = "A key that is there already is not written over: choose another name."


@click.command("new-key")
@click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), default=None, required=False)
@click.option("--install", is_flag=True, help="Give it to checkpointd as well, as root: encrypt with it from now on.")
def new_key(file: Path | None, install: bool) -> None:
    """Make a key to encrypt checkpoints and journals with, on standard output or in a new file that only you can read.

    Keep a copy away from this machine: without the key nobody reads what was encrypted with it. With --install it
    becomes a credential of checkpointd, which is restarted; the keys it had still decrypt. Without, the steps are said
    on standard error.

    \b
    Examples:
      sudo selfwarectl checkpoints new-key --install key-to-keep-elsewhere
      selfwarectl checkpoints new-key ~/.config/selfware-checkpoint-key
    """
    import secrets

    from selfware_common.state import keys
    from selfwarectl import credstore

    older = credstore.present() if install else []
    key = secrets.token_bytes(keys.KEY_BYTES)
    if file is None:
        click.echo(key.hex())
    else:
        _write(file, key)
    named = keys.key_id(key).hex()
    if not install:
        click.echo(STEPS.format(key_id=named, file=file or "FILE"), err=True)
        return
    credstore.install(key, older)
    click.echo(INSTALLED.format(key_id=named, older=len(older)), err=True)


def _write(file: Path, key: bytes) -> None:
    try:
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(made, "w") as writing:
            writing.write(key.hex() + "\n")
            writing.flush()
            os.fsync(made)
    except OSError as error:
        raise NoKeyMadeError(path=file, reason=error.strerror or str(error)) from error
