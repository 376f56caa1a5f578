"""Tells a checkpoint whose own record is damaged for good from one that cannot be read now.

A ruin may need every older pack, for nobody knows what it needs: so it must be able to go some day (``thinning`` says
when). What lay in the cold store of one whose stub is a ruin may stay there: nothing else knew its name.

Owns no file.
"""

from __future__ import annotations

import os
from pathlib import Path

from selfware_checkpointd import coldstub
from selfware_checkpointd.coldstub import COLD, COLD_CHUNKS
from selfware_checkpointd.packs import is_ruined
from selfware_checkpointd.thinning import Ruin
from selfware_checkpointd.vault import Vault


def ruin_at(path: Path, number: int, session_id: str, vault: Vault) -> Ruin | None:
    """What is left of a pack, or of a stub that alone says where its pack lies; None if it can be read, if that fails
    now, or if a newer Selfware wrote it. KeyMissingError if it is encrypted with a key that is not here."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        is_stub = path.suffix in (COLD, COLD_CHUNKS)
        if coldstub.is_ruined(path) if is_stub else is_ruined(file, number, vault):
            return Ruin(number, session_id, os.fstat(file).st_mtime_ns)
    except OSError:
        pass
    finally:
        os.close(file)
    return None
