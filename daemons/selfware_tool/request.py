"""What oversightd asks of the runner: the action, where, and within which limits. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping

from selfware_common.record import Any, NamedTuple

from .actions import Action, RunCode, RunCommand, parse_action
from .files import seal, unseal
from .refusal import RefusalError

REQUEST_FORMAT = "selfware-effect-request/1"
MIB = 1024 * 1024


class Limits(NamedTuple):
    """What one action may use. Sizes are per process unless said otherwise; 0 means no limit."""

    timeout_seconds: float = 600.0  # wall clock, whole action; an action may ask for less, never for more
    grace_seconds: float = 3.0  # between SIGTERM and SIGKILL
    output_bytes: int = 256 * 1024  # kept on disk, whole action
    memory_bytes: int = 8192 * MIB  # address space
    processes: int = 512  # whole action
    file_bytes: int = 2048 * MIB  # largest file it may write
    open_files: int = 4096
    cpu_seconds: int = 3600
    reserve_bytes: int = 256 * MIB  # what it must leave free on the disk of the workspace
    temporary_bytes: int = 1024 * MIB  # each of /tmp and /dev/shm, whole action; they live in memory


class Features(NamedTuple):
    """What this machine's bubblewrap can do beyond the necessary; ``probe`` finds out."""

    disable_userns: bool = True
    tmpfs_size: bool = True


class PythonHome(NamedTuple):
    """The interpreter that the sandbox offers, and the directories that it needs to be seen."""

    executable: str
    directories: tuple[str, ...]
    bin_directory: str


class Request(NamedTuple):
    """Everything the runner needs to know."""

    effect_id: str
    action: Mapping[str, Any]
    workspace: str
    python: PythonHome
    limits: Limits = Limits()
    features: Features = Features()
    network: bool = False
    forbidden: tuple[str, ...] = ()  # state directories: never visible, whatever the workspace
    read_only: tuple[str, ...] = ()  # more directories to show

    def parse(self) -> Action:
        """The typed action; RefusalError if it is malformed."""
        return parse_action(self.action)

    def timeout_seconds(self) -> float:
        """The smaller of what the action asks for and what it may have."""
        action = self.parse()
        asked = action.timeout_seconds if isinstance(action, RunCommand | RunCode) else 0.0
        return min(asked or self.limits.timeout_seconds, self.limits.timeout_seconds)

    def seal(self) -> bytes:
        """The bytes of request.json: equal requests give equal bytes."""
        body = self._asdict()
        for name in ("python", "limits", "features"):
            body[name] = body[name]._asdict()
        return seal(REQUEST_FORMAT, body)


def unseal_request(data: bytes, path: str) -> Request:
    """The request in the bytes of request.json; DamagedFileError or RefusalError if there is none."""
    body = unseal(REQUEST_FORMAT, data, path)
    try:
        python = body.pop("python")
        return Request(
            python=PythonHome(python["executable"], tuple(python["directories"]), python["bin_directory"]),
            limits=Limits(**body.pop("limits")),
            features=Features(**body.pop("features")),
            forbidden=tuple(body.pop("forbidden")),
            read_only=tuple(body.pop("read_only")),
            **body,
        )
    except (KeyError, TypeError) as error:
        raise RefusalError(f"{path} is not a request of this version: {error}") from error
