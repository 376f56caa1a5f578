"""An agent whose session cannot be read right now waits: systemd gives up on one that ends a few times in a row."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from selfware_agent.__main__ import AgentDaemon
from selfware_agent.errors import CheckpointRefusedError
from selfware_common import paths
from selfware_common.settings import Settings


def test_a_checkpoint_that_cannot_be_reached_while_recovering_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon: Any = AgentDaemon(paths.foreground(tmp_path), Settings())
        times: list[int] = []

        async def recover() -> None:
            times.append(1)
            if len(times) == 1:
                raise CheckpointRefusedError(checkpoint_id="ckpt-4", reason="the cold store cannot be reached.")

        async def soon(_seconds: float) -> None:
            return

        daemon._memory = SimpleNamespace(session_id="main", recover=recover, recovered_in_words="recovered")
        daemon._mind = daemon._hands = SimpleNamespace()
        daemon._foreman = SimpleNamespace(ready=False, recovered=asyncio.Event())
        daemon._keeper = SimpleNamespace(begin=lambda: None)
        daemon.wait_or_stop = soon
        assert "cold store" in await daemon.cycle()
        assert not daemon._foreman.recovered.is_set()
        assert await daemon.cycle() == "recovered"

    asyncio.run(scenario())
