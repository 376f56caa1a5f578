"""What can go wrong in the agent, in words for people."""

from __future__ import annotations

import grpc

from selfware_common.errors import SelfwareError


class SupersededError(SelfwareError):
    """Another agent took over session {session_id}; this one stops so that nothing is written twice."""

    status = grpc.StatusCode.ABORTED
    exit_code = 75
    hint = "Run only one agent per session; 'selfwarectl status' shows which one is alive."


class StateUnreadableError(SelfwareError):
    """The state of session {session_id} cannot be read: {problem}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74
    hint = "See 'selfwarectl recover' for the checkpoints that are left, and 'selfwarectl checkpoints verify'."


class UnknownTaskError(SelfwareError):
    """There is no task '{task_id}'."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 1
    hint = "'selfwarectl tasks ls' shows all tasks; a unique prefix of an id is enough."


class AmbiguousTaskError(SelfwareError):
    """'{task_id}' is the beginning of several tasks: {candidates}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2
    hint = "Give more of the id."


class BadGoalError(SelfwareError):
    """The goal cannot be accepted: {problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2
    hint = "See 'selfwarectl run --help'."


class WrongPhaseError(SelfwareError):
    """Task {task_id} is {phase}: it cannot be {wish}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4


class CheckpointRefusedError(SelfwareError):
    """Checkpoint {checkpoint_id} cannot be used: {reason}"""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 1
    hint = "'selfwarectl checkpoints ls' shows them all, 'selfwarectl checkpoints verify' which are intact."


class NothingToSaveError(SelfwareError):
    """Nothing has happened in session {session_id} yet: there is nothing to save."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4


class NotSavedError(SelfwareError):
    """Session {session_id} could not be saved: {reason}"""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 1
    hint = "The journal has everything; a checkpoint is tried again by itself."


class ForeignCheckpointError(SelfwareError):
    """Checkpoint {checkpoint_id} is of session {other_session_id}, and the agent works on {session_id}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4
    hint = "'selfwarectl recover --session {other_session_id}' has the agent work on that one."


class SessionExistsError(SelfwareError):
    """There is a session {session_id} already."""

    status = grpc.StatusCode.ALREADY_EXISTS
    exit_code = 4
    hint = "Choose another name with --name."


class UnknownSessionError(SelfwareError):
    """There is no session {session_id}."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 1
    hint = "'selfwarectl checkpoints ls' shows of which sessions there are checkpoints."


class NotQuietError(SelfwareError):
    """The files cannot be saved now: {reason}."""

    status = grpc.StatusCode.ABORTED
    exit_code = 75  # EX_TEMPFAIL
    hint = "It is tried again by itself; 'selfwarectl checkpoints now --level session' saves the rest at once."


class WorkerWedgedError(SelfwareError):
    """The worker of task {task_id} stands still ({doing}), and beginning again did not help."""

    status = grpc.StatusCode.INTERNAL
    exit_code = 75  # EX_TEMPFAIL
    hint = "The agent starts anew from its newest checkpoint and its journal."


class NotReadyError(SelfwareError):
    """The agent is not ready: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 3
    hint = "It becomes ready by itself when checkpointd answers; 'selfwarectl status' shows what it waits for."


class OversightAwayError(SelfwareError):
    """selfware-oversightd does not answer, and without it the agent cannot tell {what}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 3
    hint = "Give the command again when it does; 'selfwarectl status' shows how it is."


class QueueFullError(SelfwareError):
    """{count} tasks are waiting already, which is the limit (resources.quotas.max_queued_tasks)."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 4
    hint = "Wait for some to end, or cancel some with 'selfwarectl tasks cancel'."
