"""One line per event, whatever the event holds."""

from __future__ import annotations

from typing import Any

import pytest

from selfwarectl.tasks import telling


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        ({"goal": {"text": "do it"}}, "do it"),
        ({"purpose": "check", "action": {"tool": "run_command", "argv": ["a", "b c"]}}, "check: run_command a 'b c'"),
        ({"purpose": "act", "action": {"tool": "write_file", "path": "a.py"}}, "act: write_file a.py"),
        ({"request_id": "r", "seed": 3, "temperature": 0.8}, "seed 3, temperature 0.8"),
        ({"state": "done", "sentence": "exited with status 1", "output": "long"}, "exited with status 1"),
        ({"task_id": "t"}, ""),
    ],
)
def test_an_event_is_one_telling_line(payload: dict[str, Any], line: str) -> None:
    assert telling(payload) == line
