"""Writes the small files of an effect directory so that they are whole or absent, whatever dies when.

Each is one line of canonical JSON, UTF-8:

    {"body":{...},"crc32":<of the body's canonical JSON>,"format":"<name>/<version>"}
"""

from __future__ import annotations

import json
import os
from binascii import crc32
from collections.abc import Mapping

from selfware_common.record import Any

MODE = 0o640  # an action's user writes, oversightd reads by its group; in the foreground the directory is private


class DamagedFileError(Exception):
    """The file is not what was written; the message is one sentence."""


def canonical(record: object) -> bytes:
    """The one way to write a value as JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(format_name: str, body: Mapping[str, Any]) -> bytes:
    """The bytes of a file with this body."""
    return canonical({"format": format_name, "crc32": crc32(canonical(body)), "body": body}) + b"\n"


def unseal(format_name: str, data: bytes, path: str) -> dict[str, Any]:
    """The body of a file; DamagedFileError unless it is exactly what seal made."""
    try:
        record = json.loads(data)
        body: dict[str, Any] = record["body"]
        intact = record["format"] == format_name and record["crc32"] == crc32(canonical(body))
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if not intact:
        raise DamagedFileError(f"{path} is damaged: its checksum or format does not match")
    return body


def read_sealed(format_name: str, path: str) -> dict[str, Any] | None:
    """The body of the file at path, None if there is no file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    return unseal(format_name, data, path)


def create_durably(path: str, data: bytes) -> bool:
    """Make a new file that survives a power cut; False if it was there already."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        return False
    _write_and_sync(fd, data)
    sync_directory(os.path.dirname(path))
    return True


def replace_durably(path: str, data: bytes) -> None:
    """Put a whole file in place at once: temporary name, fsync, rename, fsync of the directory."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
    _write_and_sync(fd, data)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_and_sync(fd: int, data: bytes) -> None:
    with open(fd, "wb", closefd=True) as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
