"""Fixtures that several of these files use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.selfware_checkpointd.cold_rig import Rig
from tests.unit.selfware_checkpointd.helpers import state


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Three unrelated states on days 0, 1 and 2."""
    made = Rig(tmp_path)
    for day in range(3):
        made.save(state(day), day)
    return made
