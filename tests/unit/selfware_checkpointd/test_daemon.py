"""checkpointd as a daemon: its upkeep may fail in any way, and what is kept stays within reach."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selfware_checkpointd.__main__ import CheckpointDaemon
from selfware_common import paths
from selfware_common.errors import DiskFullError
from selfware_common.settings import Settings


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (DiskFullError(what="a pack", path="/x"), "upkeep has to wait: No space left"),
        (KeyError(7), "upkeep failed (KeyError: 7); it is tried again"),
    ],
)
def test_upkeep_that_fails_is_said_and_tried_again(failure: Exception, said: str, tmp_path: Path) -> None:
    tries = []

    async def maintain(_policy: object) -> str:
        tries.append(1)
        raise failure

    async def scenario() -> None:
        one = CheckpointDaemon(cast(paths.Paths, SimpleNamespace(state=tmp_path)), Settings())
        one.log = logging.getLogger("test")
        one._memory = cast(Any, SimpleNamespace(maintain=maintain))
        one._upkeep, one._maintained = None, 0.0
        if time.monotonic() < 60:
            one._maintained = -60.0
        assert one._upkept() == ""
        await asyncio.sleep(0)
        assert one._upkept().startswith(said)
        one._maintained = -60.0
        one._upkept()
        await asyncio.sleep(0)
        assert len(tries) == 2

    asyncio.run(scenario())
