"""The cold store: named objects that appear whole, in a directory (another disk, a mount) or in an S3-compatible store.

Nothing here decides. An object is written at once and never changed; no multipart upload is used, so a transfer that
breaks off leaves nothing hidden behind. A store that cannot be reached raises ColdAwayError, which says nothing about
what lies in it; an object that is not there raises FileNotFoundError.

Owns the objects below its prefix. ``obstore`` is imported when an S3 store is configured, not before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from selfware_checkpointd.errors import ColdAwayError
from selfware_checkpointd.files import TEMPORARY_SUFFIX, make_directory, sync_directory, sync_file, write_durably
from selfware_common.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import S3Config

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0  # for one part; slower than 300 KB/s is no store to rely on
MARK = "selfware-cold-store"
CREDENTIALS = {
    "access_key_id": ("checkpoint.cold.access_key_id", "AWS_ACCESS_KEY_ID"),
    "secret_access_key": ("checkpoint.cold.secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    "session_token": ("checkpoint.cold.session_token", "AWS_SESSION_TOKEN"),
}
"""What the store wants: the name of the systemd credential, and that of the variable if there is none."""


class ColdStore(Protocol):
    """Blocking; safe for several threads."""

    place: str
    """Which store this is, for people and for the record of each pack; the same store always says the same."""

    def prepare(self) -> None:
        """Make an empty store ready. To be called only while nothing of ours is believed to lie there."""

    def put(self, name: str, data: bytes) -> None:
        """Durable on return."""

    def settle(self, name: str) -> None:
        """Make durable what somebody put there who died before it was told so."""

    def get(self, name: str) -> bytes:
        """All of it."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Some of it."""

    def remove(self, name: str) -> None:
        """It is gone on return, also if it was before."""


@dataclass(frozen=True, slots=True)
class Where:
    """[checkpoint.cold], as far as it names a store."""

    directory: str
    url: str
    endpoint: str
    region: str


def open_store(where: Where, source: Path, environment: Mapping[str, str] = os.environ) -> ColdStore | None:
    """The configured one, None if there is none; ConfigError, which names ``source``, if it cannot be."""
    if where.directory and where.url:
        problem = "'checkpoint.cold' has both 'directory' and 'url'; only one can be the cold store"
        raise ConfigError(path=source, problem=problem)
    if where.directory:
        if not Path(where.directory).is_absolute():
            raise ConfigError(path=source, problem="'checkpoint.cold.directory' must begin with a slash")
        return DirectoryStore(Path(where.directory))
    if not where.url:
        return None
    scheme, _, rest = where.url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigError(path=source, problem="'checkpoint.cold.url' must be s3://BUCKET/PREFIX")
    keys = credentials(environment)
    if not {"access_key_id", "secret_access_key"} <= keys.keys():
        raise ConfigError(path=source, problem=f"'checkpoint.cold.url' needs its keys: {_how_to_give_keys()}")
    return S3Store(bucket, prefix.strip("/"), where.endpoint, where.region, keys, source)


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The keys that systemd or the environment gives, never the configuration."""
    found = {}
    for key, (credential, variable) in CREDENTIALS.items():
        value = environment.get(variable, "")
        if directory := environment.get("CREDENTIALS_DIRECTORY", ""):
            with contextlib.suppress(OSError):
                value = (Path(directory) / credential).read_text(encoding="utf-8").strip()
        if value:
            found[key] = value
    return found


def _how_to_give_keys() -> str:
    credential, variable = CREDENTIALS["access_key_id"]
    second, other = CREDENTIALS["secret_access_key"]
    return f"systemd credentials {credential} and {second}, or the variables {variable} and {other}"


class DirectoryStore:
    """Objects are files. A mark in the directory tells it from the empty place where it is not mounted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.place = f"directory {directory}"

    def prepare(self) -> None:
        try:
            make_directory(self._directory)
            if not (self._directory / MARK).exists():
                write_durably(self._directory / MARK, [b"Packs of Selfware's checkpoints; its stubs say whose.\n"])
            sync_directory(self._directory)  # whoever made the mark may have died before it was durable
        except OSError as error:
            raise self._away(error) from error

    def put(self, name: str, data: bytes) -> None:
        self._check()
        path = self._directory / name
        try:
            make_directory(path.parent)
            write_durably(path, [data])
        except OSError as error:
            raise self._away(error) from error

    def settle(self, name: str) -> None:
        self._check()
        path = self._directory / name
        try:
            path.with_name(path.name + TEMPORARY_SUFFIX).unlink(missing_ok=True)
            sync_file(path)
            sync_directory(path.parent)
            sync_directory(self._directory)
        except OSError as error:
            raise self._away(error) from error

    def get(self, name: str) -> bytes:
        return self.get_range(name, 0, -1)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._check()
        try:
            with (self._directory / name).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            self._check()
            raise
        except OSError as error:
            raise self._away(error) from error

    def remove(self, name: str) -> None:
        self._check()
        path = self._directory / name
        try:
            path.with_name(path.name + TEMPORARY_SUFFIX).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_directory(path.parent)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()  # the last one takes the key's directory with it
        except OSError as error:
            raise self._away(error) from error

    def _check(self) -> None:
        if not (self._directory / MARK).exists():
            raise ColdAwayError(place=self.place, reason=f"the file {MARK} is not in it (is it mounted?)")

    def _away(self, error: OSError) -> ColdAwayError:
        return ColdAwayError(place=self.place, reason=error.strerror or str(error))


class S3Store:
    """Objects of a bucket, through obstore."""

    def __init__(
        self, bucket: str, prefix: str, endpoint: str, region: str, keys: Mapping[str, str], source: Path
    ) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import S3Store as Objects
        except ImportError as error:
            problem = "'checkpoint.cold.url' needs the package obstore: pip install 'selfware[s3]'"
            raise ConfigError(path=source, problem=problem) from error
        self.place = f"s3://{bucket}/{prefix}".rstrip("/") + (f" at {endpoint}" if endpoint else "")
        self._calls, self._failed = obstore, BaseError
        config: S3Config = {"region": region}
        if endpoint:
            config["endpoint"] = endpoint
        config["access_key_id"], config["secret_access_key"] = keys["access_key_id"], keys["secret_access_key"]
        if "session_token" in keys:
            config["session_token"] = keys["session_token"]
        self._objects = Objects(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
            },
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)},
        )

    def prepare(self) -> None:
        pass

    def put(self, name: str, data: bytes) -> None:
        try:
            self._calls.put(self._objects, name, data, use_multipart=False)
        except (self._failed, OSError) as error:
            raise self._away(error) from error

    def settle(self, name: str) -> None:
        pass  # what can be read from such a store is durable

    def get(self, name: str) -> bytes:
        try:
            return bytes(self._calls.get(self._objects, name).bytes())
        except FileNotFoundError:
            raise
        except (self._failed, OSError) as error:
            raise self._away(error) from error

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        try:
            return bytes(self._calls.get_range(self._objects, name, start=offset, length=length))
        except FileNotFoundError:
            raise
        except (self._failed, OSError) as error:
            raise self._away(error) from error

    def remove(self, name: str) -> None:
        try:
            self._calls.delete(self._objects, name)
        except FileNotFoundError:
            pass
        except (self._failed, OSError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> ColdAwayError:
        return ColdAwayError(place=self.place, reason=_in_short(str(error)))


class RenamedStore:
    """The configured store, asked for what was put into one of another name. It may be the same one, moved; what is not
    in it is away and not lost."""

    def __init__(self, store: ColdStore, asked_place: str) -> None:
        self._store = store
        self.place = asked_place

    def prepare(self) -> None:
        pass

    def put(self, name: str, data: bytes) -> None:
        raise self._away()

    def settle(self, name: str) -> None:
        raise self._away()

    def get(self, name: str) -> bytes:
        try:
            return self._store.get(name)
        except FileNotFoundError:
            raise self._away() from None

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        try:
            return self._store.get_range(name, offset, length)
        except FileNotFoundError:
            raise self._away() from None

    def remove(self, name: str) -> None:
        raise self._away()

    def _away(self) -> ColdAwayError:
        return ColdAwayError(place=self.place, reason=f"the configured one is {self._store.place} now, without it")


def _in_short(text: str) -> str:
    """What a person needs of obstore's account: its first line, and what the server itself says."""
    first = text.split("\n", 1)[0].removesuffix(': <?xml version="1.0" encoding="UTF-8"?>')
    said = text.partition("<Message>")[2].partition("</Message>")[0]
    return f"{first}: {said}" if said else first
