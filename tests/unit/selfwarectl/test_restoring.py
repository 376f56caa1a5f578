"""A restore that does not come to its end says so, stays paused, and can be undone however often it is given again."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from selfware_common.errors import UnreachableError
from selfware_common.rpc import agent_pb2, checkpoint_pb2
from selfwarectl import checkpoints, output, reach, restoring

ONE = checkpoint_pb2.CheckpointInfo(checkpoint_id="ckpt-1", session_id="main", level=checkpoint_pb2.LEVEL_SYSTEM)


class World:
    """An oversightd and an agent; `fails` is raised by whatever it names, once."""

    def __init__(self) -> None:
        self.paused = False
        self.restoring, self.undone_by = "", ""
        self.saved = 1
        self.fails: dict[str, BaseException] = {}

    def operator(self, method: str, target: str, body: dict[str, Any] | None = None, seconds: float = 0) -> Any:
        self._fail(target.rpartition("/")[2])
        if target == "/status":
            return {"running": []}
        if target.endswith("/restore-begins"):
            self.restoring = "ckpt-1"
            self.undone_by = self.undone_by or str((body or {})["undone_by"])
            return {"undone_by": self.undone_by}
        if target.endswith("/restore-ends"):
            self.restoring, self.undone_by = "", ""
            return {"paused": self.paused or bool(body and body["stay_paused"])}
        none = {"count": 0, "paths": []}
        return {"workspaces": [{"directory": "/w", "created": none, "changed": none, "deleted": none}]}

    def save_now(self, request: agent_pb2.SaveNowRequest) -> Any:
        self._fail("save")
        self.saved += 1
        return SimpleNamespace(checkpoint_id=f"ckpt-{self.saved}")

    def restore_agent(self, _checkpoint_id: str) -> agent_pb2.RestoreReply:
        self._fail("agent")
        return agent_pb2.RestoreReply(session_id="main", sequence=9)

    def _fail(self, where: str) -> None:
        if where in self.fails:
            raise self.fails.pop(where)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    one = World()
    monkeypatch.setattr(reach, "operator", one.operator)
    monkeypatch.setattr(checkpoints, "save_now", one.save_now)
    monkeypatch.setattr(checkpoints, "find", lambda _: ONE)
    monkeypatch.setattr(restoring, "_restore_agent", one.restore_agent)
    monkeypatch.setattr(output._Mode, "json", False)
    return one


def given(*argv: str) -> Result:
    return CliRunner().invoke(restoring.restore, ["ckpt-1", *argv], standalone_mode=False)


def away() -> UnreachableError:
    return UnreachableError(daemon="d", path="/p", reason="nobody answers there")


@pytest.mark.parametrize("what", [away, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["save", "restore", "agent", "restore-ends"])
def test_who_is_left_with_half_a_restore_is_told(world: World, where: str, what: Callable[[], BaseException]) -> None:
    world.fails[where] = what()
    error = given().exception
    if not world.restoring:
        assert isinstance(error, restoring.NothingChangedError)
        return
    assert isinstance(error, restoring.StillPausedError)
    assert "'selfwarectl restore ckpt-1' again" in error.advice
    assert ("restore ckpt-2' to have everything as it was" in error.advice) is (where != "save")


def test_a_restore_that_goes_on_is_undone_by_what_the_first_try_saved(world: World) -> None:
    for _ in range(2):
        world.fails["agent"] = away()
        assert isinstance(given().exception, restoring.StillPausedError)
    told = given()
    assert world.saved == 4  # the present is saved each time, but the first was before any file was put back
    assert "'selfwarectl restore ckpt-2' undoes this\n" in told.output
    assert "'selfwarectl restore ckpt-5' undoes this" in given().output  # another restore, of what is there by now


def test_a_pause_that_was_there_before_is_left_as_it_was(world: World) -> None:
    world.paused = True
    assert "still paused" in given().output
    world.paused = False
    assert "still paused" not in given().output
    assert "still paused" in given("--stay-paused").output
