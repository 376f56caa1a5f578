"""`checkpoints new-key`: a key to encrypt checkpoints and journals with. Where keys are used: checkpointd's `vault`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from selfware_common.errors import SelfwareError

HINT = """\
This is key {key_id}. Keep a copy of it away from this machine.
Under systemd, as root: systemd-creds encrypt --name=checkpoint-key {file} /etc/credstore.encrypted/checkpoint-key
and in a drop-in of selfware-checkpointd.service: [Service] LoadCredentialEncrypted=checkpoint-key
Without systemd: [checkpoint.encryption] key_file = "..." in selfware.toml, and chmod 600 for the file.
Then [checkpoint.encryption] enabled = true, and restart checkpointd."""


class NoKeyMadeError(SelfwareError):
    """Cannot write a key to {path}: {reason}."""

    exit_code = 1
    hint = "A key that is there already is not written over: choose another name."


@click.command("new-key")
@click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), default=None, required=False)
def new_key(file: Path | None) -> None:
    """Make a key to encrypt checkpoints and journals with, on standard output or in a new file that only you can read.

    Where it goes from there is said on standard error. Keep a copy away from this machine: without the key nobody
    reads what was encrypted with it.

    \b
    Examples:
      selfwarectl checkpoints new-key | systemd-creds encrypt --name=checkpoint-key - checkpoint-key.cred
      selfwarectl checkpoints new-key ~/.config/selfware-checkpoint-key
    """
    import secrets

    from selfware_common.state import keys

    key = secrets.token_bytes(keys.KEY_BYTES)
    if file is None:
        click.echo(key.hex())
    else:
        try:
            made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(made, "w") as writing:
                writing.write(key.hex() + "\n")
                writing.flush()
                os.fsync(made)
        except OSError as error:
            raise NoKeyMadeError(path=file, reason=error.strerror or str(error)) from error
    click.echo(HINT.format(key_id=keys.key_id(key).hex(), file=file or "FILE"), err=True)
