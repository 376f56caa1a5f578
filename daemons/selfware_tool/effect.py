"""An effect's directory: what lies in it, and what can be told from it.

    request.json   what to run, written by oversightd before anything else
    lock           held by the runner for its whole life
    started        made by the runner before anything runs; if it exists, the action may have had an effect
    output         what the action printed, beginning and end, bounded
    result.json    how it ended; if it exists, that is the answer for ever
    runner.log     empty, or the traceback of a runner that failed

Reads only. NOT_STARTED is the only state in which a launch is right.
"""

from __future__ import annotations

import os
from enum import Enum

from selfware_common.record import Any, NamedTuple

from . import lock
from .files import DamagedFileError, read_sealed, seal

RESULT_FORMAT = "selfware-effect-result/1"
STARTED_FORMAT = "selfware-effect-started/1"


class EffectState(Enum):
    """Where an effect stands, as the files and the lock tell it."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    DONE = "done"
    UNKNOWN = "unknown"


class Result(NamedTuple):
    """How an action ended. ``ran`` is False when it was refused or its sandbox could not be made: no effect then."""

    ran: bool
    exit_status: int
    signal: int
    timed_out: bool
    cancelled: bool
    started_unix_nanos: int
    ended_unix_nanos: int
    output_bytes: int
    dropped_bytes: int
    sentence: str

    @property
    def ok(self) -> bool:
        """Whether it ran and said that it succeeded."""
        return self.ran and self.exit_status == 0 and not self.timed_out and not self.cancelled

    @property
    def seconds(self) -> float:
        """How long it took by the wall clock."""
        return max(0, self.ended_unix_nanos - self.started_unix_nanos) / 1e9

    def seal(self) -> bytes:
        """The bytes of result.json."""
        return seal(RESULT_FORMAT, self._asdict())


class EffectStatus(NamedTuple):
    """An effect's state, its result when DONE, and a sentence for people."""

    state: EffectState
    sentence: str
    result: Result | None = None


class EffectPaths(NamedTuple):
    """The names in one effect directory."""

    directory: str

    @property
    def request(self) -> str:
        """What to run."""
        return f"{self.directory}/request.json"

    @property
    def lock(self) -> str:
        """Held while the runner lives."""
        return f"{self.directory}/lock"

    @property
    def started(self) -> str:
        """Exists once the action may have had an effect."""
        return f"{self.directory}/started"

    @property
    def output(self) -> str:
        """What the action printed."""
        return f"{self.directory}/output"

    @property
    def result(self) -> str:
        """How it ended."""
        return f"{self.directory}/result.json"

    @property
    def runner_log(self) -> str:
        """Where a failing runner leaves its traceback."""
        return f"{self.directory}/runner.log"


def inspect(effect_directory: str | os.PathLike[str]) -> EffectStatus:
    """The effect's state now. Changes nothing and never blocks."""
    paths = EffectPaths(os.fspath(effect_directory))
    if (done := _done(paths)) is not None:
        return done
    if lock.is_held(paths.lock):
        return EffectStatus(EffectState.RUNNING, "running")
    # The runner may have finished between the first look and the question about its lock.
    if (done := _done(paths)) is not None:
        return done
    if os.path.exists(paths.started):
        return EffectStatus(EffectState.UNKNOWN, _lost(paths))
    return EffectStatus(EffectState.NOT_STARTED, "not started")


def read_output(effect_directory: str | os.PathLike[str]) -> bytes:
    """What was kept of the action's output so far: raw bytes, terminal escapes and all."""
    try:
        with open(EffectPaths(os.fspath(effect_directory)).output, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def started_record(now_unix_nanos: int) -> bytes:
    """The bytes of ``started``."""
    body = {"pid": os.getpid(), "boot_id": boot_id(), "started_unix_nanos": now_unix_nanos}
    return seal(STARTED_FORMAT, body)


def boot_id() -> str:
    """The kernel's name for this boot of the machine; a unit without /proc/sys has it from systemd (%b)."""
    if given := os.environ.get("SELFWARE_BOOT_ID"):
        return given
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")


def _done(paths: EffectPaths) -> EffectStatus | None:
    try:
        body = read_sealed(RESULT_FORMAT, paths.result)
        if body is None:
            return None
        result = Result(**body)
    except (DamagedFileError, TypeError) as error:
        return EffectStatus(EffectState.UNKNOWN, f"it ended, but how is not known: {error}")
    return EffectStatus(EffectState.DONE, result.sentence, result)


def _lost(paths: EffectPaths) -> str:
    """Why there is no result, as far as ``started`` can tell."""
    began: dict[str, Any] | None
    try:
        began = read_sealed(STARTED_FORMAT, paths.started)
    except DamagedFileError:
        began = None
    if began is not None and began.get("boot_id") == boot_id():
        return "it began, and its runner was killed before the end: whether it took effect is not known"
    return "it began, and the machine stopped before the end: whether it took effect is not known"
