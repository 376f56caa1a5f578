"""What a graph can meet when it saves or reads, each as one sentence and what to do next."""

from __future__ import annotations

import grpc

from selfware_common.errors import SelfwareError


class ThreadUnreadableError(SelfwareError):
    """Thread {thread} cannot be read from checkpointd: {problem}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74  # EX_IOERR
    hint = "Other threads are untouched. 'selfwarectl doctor' looks at the disk."


class NotSavedError(SelfwareError):
    """Thread {thread} was not saved: {reason}"""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 74
    hint = "What was saved before is untouched."


class LostPlaceError(SelfwareError):
    """Another process writes session {session}: {reason}"""

    status = grpc.StatusCode.ABORTED
    exit_code = 75  # EX_TEMPFAIL
    hint = "Two processes work on the same thread all the time; give each a thread of its own."
