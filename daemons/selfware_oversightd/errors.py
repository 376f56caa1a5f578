"""What can go wrong between a proposal and its outcome, each as one sentence and what to do next."""

from __future__ import annotations

import grpc

from selfware_common.errors import SelfwareError


class NoActionError(SelfwareError):
    """The proposal {effect_id} names no action."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65  # EX_DATAERR
    hint = "Fill in exactly one kind of action."


class ActionTooLargeError(SelfwareError):
    """The action {effect_id} has {size_bytes} bytes; at most {limit_bytes} are taken."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65
    hint = "Split it into smaller actions."


class InvalidIdError(SelfwareError):
    """{what} {value} is not an id: 1 to 128 letters, digits, '-', '_' or '.', beginning with a letter or digit."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65


class InvalidRequestError(SelfwareError):
    """{problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2
    hint = "The API is described in docs/operator-api.md."


class GoalConflictError(SelfwareError):
    """Goal {goal_id} is already registered with another {what}."""

    status = grpc.StatusCode.ALREADY_EXISTS
    exit_code = 4
    hint = "A goal never changes; use a new goal id."


class ApprovalNotFoundError(SelfwareError):
    """There is no approval {approval_id}."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 1
    hint = "'selfwarectl approvals ls' lists them."


class ApprovalAmbiguousError(SelfwareError):
    """{count} approvals begin with {approval_id}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 2
    hint = "Give more of the id."


class ApprovalDecidedError(SelfwareError):
    """Approval {approval_id} cannot be {wish}: it is {state} already."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4
    hint = "An approval is good for one decision and one run; nothing was done."


class ApprovalExpiredError(SelfwareError):
    """Approval {approval_id} cannot be {wish}: it expired unanswered."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4
    hint = "If the action is still wanted, it is asked again under a new id: 'selfwarectl approvals ls'."


class DigestMismatchError(SelfwareError):
    """Approval {approval_id} is for the action {digest}, not for {given}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4
    hint = "Look at it again with 'selfwarectl approvals show {approval_id}'; nothing was approved."


class LedgerFailedError(SelfwareError):
    """The ledger {path} failed: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 74  # EX_IOERR
    hint = "Check the disk ('dmesg', 'smartctl'). Nothing acknowledged was lost."


class LedgerDamagedError(SelfwareError):
    """The ledger {path} is damaged: {reason}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74
    hint = "Restore it from a backup. Without it Selfware cannot know what already ran, so nothing is run."


class LedgerVersionError(SelfwareError):
    """The ledger {path} has format version {version} and this Selfware reads version {known}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78  # EX_CONFIG
    hint = "Install the Selfware that wrote it, or a newer one."


class ToolFailedError(SelfwareError):
    """The tool runner of {effect_id} could not be started: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 71  # EX_OSERR
    hint = "Nothing was run; it is tried again by itself."


class StoppingError(SelfwareError):
    """selfware-oversightd is stopping."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 75  # EX_TEMPFAIL
    hint = "Call again with the same effect id: nothing is lost and nothing runs twice."


class WorkspaceBusyError(SelfwareError):
    """{workspace} cannot be saved as it was in that state: {reason}."""

    status = grpc.StatusCode.ABORTED
    exit_code = 75
    hint = "Save the state again once the action has ended, and ask again."


class WorkspaceUnknownError(SelfwareError):
    """{workspace} is not the workspace of a registered goal."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 4
    hint = "Only the operator registers goals: docs/operator-api.md."


class NotStateError(SelfwareError):
    """{checkpoint_id} is not a state of session {session_id} that files can be saved with: {problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65


class NotPausedError(SelfwareError):
    """{checkpoint_id} cannot be restored now: {reason}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4
    hint = "Run 'selfwarectl pause', wait until 'selfwarectl status' shows no action running, and try again."


class ForeignTreeError(SelfwareError):
    """{checkpoint_id} is not restored: its files for {workspace} were not saved by selfware-oversightd."""

    status = grpc.StatusCode.PERMISSION_DENIED
    exit_code = 4
    hint = "Nothing was changed. It was made up, or is older than what is remembered: choose another."
