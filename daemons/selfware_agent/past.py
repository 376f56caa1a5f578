"""What the agent knew at a checkpoint: read from checkpointd, whether files were saved with it or not.

Changes nothing. A system checkpoint can be as large as its workspaces, so it is read through a file, never in memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from selfware_agent import state
from selfware_agent.errors import CheckpointRefusedError, ForeignCheckpointError, StateUnreadableError
from selfware_common.state.saving import Checkpoint, SavingError, get_file
from selfware_common.state.sections import SystemStateError, session_part


def read(bulk: Path, spool: Path, checkpoint_id: str, session_id: str) -> tuple[Checkpoint, state.Session]:
    """The facts and the session in a checkpoint; blocking. ``session_id``: whose it has to be, "" for anybody's.

    Raises CheckpointRefusedError, ForeignCheckpointError, StateUnreadableError.
    """
    spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=spool) as file:
        try:
            info = get_file(bulk, checkpoint_id, file.fileno())
        except SavingError as error:
            raise CheckpointRefusedError(checkpoint_id=checkpoint_id, reason=str(error)) from error
        if session_id not in ("", info.session_id):
            raise ForeignCheckpointError(
                checkpoint_id=info.checkpoint_id, session_id=session_id, other_session_id=info.session_id
            )
        file.seek(0)
        return info, decoded(info.session_id, cast(BinaryIO, file))


def decoded(session_id: str, file: BinaryIO) -> state.Session:
    """The session in a checkpoint's state. Raises StateUnreadableError."""
    try:
        return state.decode(session_part(file, "the checkpoint"))
    except (ValueError, KeyError, TypeError, SystemStateError) as error:
        raise StateUnreadableError(session_id=session_id, problem=f"bad checkpoint state: {error}") from error
