"""What is printed cannot drive a terminal, and what is JSON has a steady shape."""

from __future__ import annotations

import pytest

from selfware_common.errors import AlreadyRunningError, ConfigError, UnreachableError, UsageError
from selfware_common.rpc import agent_pb2, checkpoint_pb2, daemon_pb2
from selfwarectl import output


def test_text_from_a_model_cannot_clear_the_screen_or_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "ok\x1b[2J\nappr-9  approved\u202e"
    output.say(evil)
    output.table(("ID", "TEXT"), [("1", evil)])
    output.pairs({"text": evil})
    output.block(evil)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert len(printed.splitlines()) == 1 + 2 + 1 + 2


def test_json_is_ascii_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"text": "a\x1b[2J\nü"})
    assert capsys.readouterr().out == '{"text": "a\\u001b[2J\\n\\u00fc"}\n'


def test_a_message_becomes_plain_values_with_every_field_present() -> None:
    task = output.plain(agent_pb2.Task(task_id="t", state=agent_pb2.TASK_STATE_SOLVED, check=["a", "b"]))
    assert task["state"] == "solved"
    assert task["check"] == ["a", "b"]
    assert task["accepted_unix_nanos"] == 0
    assert task["priority"] == "unspecified"
    info = output.plain(checkpoint_pb2.CheckpointInfo(state_hash=b"\x01\xff", level=checkpoint_pb2.LEVEL_MICRO))
    assert (info["state_hash"], info["level"]) == ("01ff", "micro")
    assert output.plain(checkpoint_pb2.RecoverHeader())["checkpoint"] is None
    assert output.plain(daemon_pb2.StatusReply(facts={"events": "3"}))["facts"] == {"events": "3"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0s"), (59.9, "59s"), (61, "1m 01s"), (3700, "1h 01m"), (90_000, "1d 01h")],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert output.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1536, "1.5 KiB"), (491_400_064, "469 MiB"), (2**43, "8.0 TiB")]
)
def test_sizes_are_short(count: int, words: str) -> None:
    assert output.size(count) == words


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError(problem="no"), 2),
        (UnreachableError(daemon="d", path="p", reason="r"), 3),
        (AlreadyRunningError(daemon="d", pid=1, path="p"), 4),
        (ConfigError(path="p", problem="x"), 1),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1),
    ],
)
def test_every_failure_has_one_of_the_five_exit_statuses(error: Exception, status: int) -> None:
    assert output.fail(error) == status
