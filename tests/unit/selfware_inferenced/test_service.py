"""What the daemon says of itself."""

from __future__ import annotations

from selfware_inferenced.engines import Health
from selfware_inferenced.service import sentence

UP, DOWN = Health(True, "up"), Health(False, "waiting for the engine at /e.sock")


def test_the_sentence_tells_what_runs_and_what_is_waited_for() -> None:
    assert sentence("m", UP, 1, 2, 41.26) == "m ready: 1 running, 2 waiting, 41.3 tokens/s"
    assert sentence("m", UP, 0, 0, 0.0) == "m ready: 0 running, 0 waiting"
    assert sentence("m", DOWN, 0, 0, 9.0) == "waiting for the engine at /e.sock"
    assert sentence("m", DOWN, 0, 1, 0.0) == "waiting for the engine at /e.sock; 1 request waits for it"
    assert sentence("m", DOWN, 0, 2, 0.0) == "waiting for the engine at /e.sock; 2 requests wait for it"
