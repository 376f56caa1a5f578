"""What happened between two checkpoints, told from what the agent saved."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

import pytest

from selfware_agent import state
from selfware_common.state.sections import SESSION, SectionWriter
from selfwarectl import differences
from selfwarectl.reach import FailedError


def tasks(**turns: list[str]) -> dict[str, Any]:
    found = {}
    for name, said in turns.items():
        goal = state.Goal(name, "do it", "/w")
        found[name] = state.Task(goal, requests=len(said), turns=tuple(state.Turn("user", one) for one in said))
    session = state.Session(tasks=found, sequence=7)
    return dict(differences.session_in(cast(BinaryIO, io.BytesIO(session.encode())), "ckpt-1")["tasks"])


def test_tasks_come_go_and_change() -> None:
    found = differences.tasks_between(tasks(a=["x"], b=["x"], c=[]), tasks(b=["x"], c=["y"], d=[]))
    assert [one["task_id"] for one in found["added"]] == ["d"]
    assert [one["task_id"] for one in found["deleted"]] == ["a"]
    assert [one["task_id"] for one in found["changed"]] == ["c"]
    assert found["changed"][0]["to"]["messages"] == 1


def test_only_new_messages_are_told_even_when_old_ones_fell_out() -> None:
    def new(before: list[str], after: list[str]) -> list[str]:
        return [one["content"] for one in differences.messages_between(tasks(a=before), tasks(a=after))]

    assert new(["1", "2"], ["1", "2", "3"]) == ["3"]
    assert new(["1", "2", "3"], ["2", "3", "4", "5"]) == ["4", "5"]
    assert new(["1"], ["2", "3"]) == ["2", "3"]
    assert new(["1", "1"], ["1", "1", "1"]) == ["1"]
    assert new(["1", "2"], []) == []


def test_the_session_of_a_system_checkpoint_is_found_in_it() -> None:
    file = io.BytesIO()
    writer = SectionWriter(file)
    file.write(state.Session(sequence=3).encode())
    writer.end(SESSION, "main")
    writer.finish()
    assert differences.session_in(cast(BinaryIO, file), "ckpt-2")["sequence"] == 3


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"sequence": 1}', b"\xff\xfe", b'{"sequence":1,"tasks":3}'])
def test_what_is_no_state_of_the_agent_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(FailedError, match="ckpt-3 does not hold"):
        differences.session_in(cast(BinaryIO, io.BytesIO(data)), "ckpt-3")
