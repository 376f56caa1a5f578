"""A fork that does not come to its end: nothing is deleted that somebody may still be writing, and it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from selfware_common.errors import UnreachableError
from selfware_common.rpc import agent_pb2, checkpoint_pb2
from selfwarectl import checkpoints, forking, output, reach, restoring

ONE = checkpoint_pb2.CheckpointInfo(checkpoint_id="ckpt-1", session_id="main", level=checkpoint_pb2.LEVEL_SYSTEM)


def away(*_given: Any, **_more: Any) -> Any:
    raise UnreachableError(daemon="d", path="/p", reason="no answer in time")


def refused(*_given: Any, **_more: Any) -> Any:
    raise reach.RefusedError(reason="no")


def interrupted(*_given: Any, **_more: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    place = tmp_path / "w-try"
    reply = agent_pb2.ForkReply(session_id="try", goals=[agent_pb2.ForkedGoal(goal_id="t.try", workspace=str(place))])
    monkeypatch.setattr(checkpoints, "find", lambda _: ONE)
    monkeypatch.setattr(forking, "_directories", lambda *_: {"/w": str(place)})
    monkeypatch.setattr(forking, "_fork_agent", lambda *_: reply)
    monkeypatch.setattr(forking, "REGISTER_SECONDS", 0.0)
    monkeypatch.setattr(restoring, "put_files_back", lambda *_: [])
    monkeypatch.setattr(reach, "operator", lambda *_: {})
    monkeypatch.setattr(output._Mode, "json", False)
    return place


def given() -> BaseException | None:
    return CliRunner().invoke(forking.fork, ["ckpt-1", "--name", "try"], standalone_mode=False).exception


@pytest.mark.parametrize("what", [away, interrupted])
@pytest.mark.parametrize("where", ["put_files_back", "_fork_agent", "operator"])
def test_what_may_still_be_written_or_belongs_to_a_session_is_left_and_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch, where: str, what: Any
) -> None:
    owner = {"put_files_back": restoring, "_fork_agent": forking, "operator": reach}[where]
    monkeypatch.setattr(owner, where, what)
    error = given()
    assert isinstance(error, forking.HalfAForkError)
    assert str(copy) in error.advice
    assert copy.is_dir()


def test_after_a_definite_no_the_same_command_can_be_given_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(restoring, "put_files_back", refused)
        assert isinstance(given(), reach.RefusedError)
    assert not copy.exists()
    assert given() is None
