"""Errors that a person reads: one sentence saying what is wrong and where, and a hint saying what to do.

Every error a user can meet is a subclass of SelfwareError. Its docstring is the sentence (``{name}`` fields are
filled from the keyword arguments), ``hint`` is the next step, ``exit_code`` is what a program exits with
(sysexits.h numbers) and ``status`` is what a gRPC caller sees. No traceback reaches a user.
"""

from __future__ import annotations

import inspect
from string import Formatter
from typing import Any, ClassVar

import grpc


class SelfwareError(Exception):
    """Something in Selfware failed."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    exit_code: ClassVar[int] = 70  # EX_SOFTWARE
    hint: ClassVar[str] = ""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(_fill(_first_paragraph(type(self)), fields))

    @property
    def sentence(self) -> str:
        """What is wrong and where, without the hint."""
        return str(self.args[0])

    @property
    def advice(self) -> str:
        """What to do next, with this error's fields filled in; may be empty."""
        return _fill(self.hint, self.fields)

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}".strip()


class ConfigError(SelfwareError):
    """Configuration {path}: {problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 78  # EX_CONFIG
    hint = "Run 'selfwarectl config check' after mending it."


class AlreadyRunningError(SelfwareError):
    """{daemon} is already running as process {pid}: it holds the lock {path}."""

    status = grpc.StatusCode.ALREADY_EXISTS
    exit_code = 75  # EX_TEMPFAIL
    hint = "Stop that one first, or choose another directory with SELFWARE_HOME."


class SocketPathTooLongError(SelfwareError):
    """The socket path {path} has {length} bytes; Linux allows {limit}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78
    hint = "Set SELFWARE_HOME to a shorter directory."


class RestoreUnderWayError(SelfwareError):
    """{what} now: a restore to {checkpoint_id} is under way."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4
    hint = (
        "Give the command again when it is done. If it died, 'selfwarectl restore {checkpoint_id}' finishes it, and "
        "'selfwarectl resume --give-up-restore' goes on with everything as it is."
    )


class DiskFullError(SelfwareError):
    """No space left for {what} in {path}."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 74  # EX_IOERR
    hint = "Free some space there; saving resumes by itself. Nothing acknowledged was lost."


class ChunkerMissingError(SelfwareError):
    """The compiled half of pyfastcdc is missing, and without it a save would take 100 times as long."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 69  # EX_UNAVAILABLE
    hint = "Install the binary wheel: pip install --force-reinstall --only-binary :all: pyfastcdc"


class UnreachableError(SelfwareError):
    """Cannot reach {daemon} at {path}: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 3
    hint = "Is it running? Start the stack with 'make up' or 'systemctl start selfware.target'."


class UsageError(SelfwareError):
    """{problem}"""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2


def _first_paragraph(kind: type[SelfwareError]) -> str:
    text = inspect.cleandoc(kind.__doc__ or kind.__name__)
    return " ".join(text.split("\n\n")[0].split())


def _fill(template: str, fields: dict[str, Any]) -> str:
    """str.format with unknown fields left as they are: an error message must never raise."""
    out = []
    for literal, name, _spec, _conversion in Formatter().parse(template):
        out.append(literal)
        if name is not None:
            out.append(str(fields[name]) if name in fields else "{" + name + "}")
    return "".join(out)
