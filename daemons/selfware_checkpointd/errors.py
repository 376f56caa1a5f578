"""What can go wrong with the memory of a session, each as one sentence and what to do next."""

from __future__ import annotations

import errno
from pathlib import Path

import grpc

from selfware_common.errors import DiskFullError, SelfwareError


class StorageError(SelfwareError):
    """Cannot {what} in {path}: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 74  # EX_IOERR
    hint = "Check the disk ('dmesg', 'smartctl'). Nothing acknowledged was lost."


class ColdAwayError(SelfwareError):
    """The cold store of checkpoints, {place}, cannot be reached: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 75  # EX_TEMPFAIL
    hint = "Nothing is lost: try again when it is back. '[checkpoint.cold]' of selfware.toml says where it is."


class FormatVersionError(SelfwareError):
    """{path} has format version {version} and this Selfware reads version {known}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78
    hint = "Install the Selfware that wrote it, or a newer one."


class JournalStoppedError(SelfwareError):
    """The journal of session {session_id} stopped: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 74
    hint = (
        "Look after the disk ('dmesg'); the journal goes on by itself once it is well. Nothing acknowledged was lost."
    )


class JournalCorruptError(SelfwareError):
    """The journal of session {session_id} is damaged in {segment} at byte {offset}; the last good event is {last_good}."""  # noqa: E501

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74
    hint = "Recover from a checkpoint after the damage, or fork the session at event {last_good}."


class EventsLetGoError(SelfwareError):
    """Events 1 to {last} of session {session_id} were let go: checkpoints hold what came of them."""

    status = grpc.StatusCode.OUT_OF_RANGE
    exit_code = 1
    hint = "Begin after event {last}, or at a checkpoint."


class SequenceGapError(SelfwareError):
    """Session {session_id} expects event {expected} next and was given event {sequence}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    hint = "Read the session again and go on from event {expected}."


class SequenceConflictError(SelfwareError):
    """Event {sequence} of session {session_id} is already recorded with other content."""

    status = grpc.StatusCode.ALREADY_EXISTS
    hint = "Two writers, or a writer that lost its place: read the session again before writing."


class StaleWriterError(SelfwareError):
    """Writer epoch {epoch} of session {session_id} is over: the current epoch is {current}."""

    status = grpc.StatusCode.ABORTED
    exit_code = 75  # EX_TEMPFAIL
    hint = "Another writer opened the session. Stop this one, or open the session again."


class InvalidRecordError(SelfwareError):
    """Event {sequence} cannot be recorded: {problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65  # EX_DATAERR


class UnusableStateError(SelfwareError):
    """The checkpoint cannot be saved: {problem}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65  # EX_DATAERR
    hint = "Nothing was stored; earlier checkpoints are untouched."


class UnusableTargetError(SelfwareError):
    """The state cannot be written into what is no file, or was opened to append to: its pieces come in no order."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 65  # EX_DATAERR
    hint = "Give a file that is open for writing."


class InvalidSessionIdError(SelfwareError):
    """'{session_id}' is not a session id."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2
    hint = "Use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit."


class SessionNotFoundError(SelfwareError):
    """There is no session {session_id}."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 1


class SessionCorruptError(SelfwareError):
    """The writer record of session {session_id} is damaged: neither copy in {path} matches its checksum."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74
    hint = "Restore that file from a backup, or fork the session under a new id."


class CheckpointNotFoundError(SelfwareError):
    """There is no checkpoint {checkpoint_id}."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 1
    hint = "'selfwarectl checkpoints ls' lists them."


class CheckpointAmbiguousError(SelfwareError):
    """{count} checkpoints begin with {checkpoint_id}."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2
    hint = "Give more of the id."


class CheckpointCorruptError(SelfwareError):
    """Checkpoint {checkpoint_id} is damaged: {problem}."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74
    hint = "Run 'selfwarectl checkpoints verify'. The agent resumes from the one before."


class KeyMissingError(SelfwareError):
    """{what} is encrypted with key {key_id}, which is not among the credentials."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78
    hint = (
        "Nothing was deleted. Give checkpointd that key as well: the credential checkpoint-key-old, or a further line "
        "of key_file (docs/installing.md, 'Encryption'). If the key is lost, move the file away to go on without it."
    )


class KeyUnusableError(SelfwareError):
    """Checkpoints are to be encrypted, and there is no key: {path} {problem}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78
    hint = (
        "Nothing is lost: put back the key that it had ('sudo systemctl daemon-reload' after that) and start it again. "
        "A first key comes from 'sudo selfwarectl checkpoints new-key --install' (docs/installing.md, 'Encryption')."
    )


class StoreFullError(SelfwareError):
    """The store may take {limit} bytes; a checkpoint of {size} does not fit into the {left} that can be made free."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 74
    hint = (
        "Raise [checkpoint] max_size_bytes, or remove tags: tagged checkpoints and the last ones of each session stay."
    )


class TagTakenError(SelfwareError):
    """The tag '{name}' belongs to {checkpoint_id}."""

    status = grpc.StatusCode.ALREADY_EXISTS
    exit_code = 1
    hint = "Take another name, or remove that tag first."


class InvalidTagError(SelfwareError):
    """'{name}' is not a tag."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2
    hint = "Use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit, but not with 'ckpt-'."


class TagNotFoundError(SelfwareError):
    """There is no tag '{name}'."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 1


class TagsCorruptError(SelfwareError):
    """The tags in {path} are damaged: neither copy matches its checksum."""

    status = grpc.StatusCode.DATA_LOSS
    exit_code = 74
    hint = "No checkpoint is deleted meanwhile. Move that file away, and tag again what is to stay."


class UnknownBaseError(SelfwareError):
    """Checkpoint {checkpoint_id} cannot be built on: it is gone, damaged or of another session."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 1
    hint = "Send the whole state."


def disk_error(error: OSError, what: str, path: Path) -> SelfwareError:
    """Tell a full disk (somebody can make room) from a failing one (somebody must look at it)."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(what=what, path=path)
    return StorageError(what=f"write {what}", path=path, reason=error.strerror or str(error))
