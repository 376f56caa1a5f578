"""What can go wrong between a directory and its stream, each as one sentence and what to do next."""

from __future__ import annotations

import grpc

from selfware_common.errors import SelfwareError


class TreeDamagedError(SelfwareError):
    """The saved tree is damaged: {problem}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74  # EX_IOERR
    hint = "Nothing was changed on disk. Restore an older checkpoint."


class TreeVersionError(SelfwareError):
    """The saved tree has format version {version} and this Selfware reads version {known}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78  # EX_CONFIG
    hint = "Install the Selfware that wrote it, or a newer one."


class TreeTooLargeError(SelfwareError):
    """{root} is too large to be saved: with {path} it holds more than {limit} {unit}."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 65  # EX_DATAERR
    hint = "Remove what need not be saved, or raise the limit."


class TreeCaptureError(SelfwareError):
    """{root} cannot be saved: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 74


class TreeRestoreError(SelfwareError):
    """{path} cannot be restored in {root}: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 74
    hint = "The tree is partly restored. Mend that, then restore again: it goes on where it stopped."


def printable(path: bytes) -> str:
    """A path for people: any bytes, without control characters; the root is '.'."""
    text = path.decode("utf-8", "backslashreplace") or "."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
