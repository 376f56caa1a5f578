from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from selfware_checkpointd.errors import (
    InvalidSessionIdError,
    SessionCorruptError,
    SessionNotFoundError,
    StaleWriterError,
    StorageError,
)
from selfware_checkpointd.sessions import Session, Sessions, encode_session
from tests.unit.selfware_checkpointd.helpers import flip


def test_every_opening_is_a_new_epoch_that_survives_a_restart(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    assert sessions.open("alpha", "agent pid 1", 100).epoch == 1
    assert sessions.open("alpha", "agent pid 2", 200).epoch == 2
    assert Sessions(tmp_path).get("alpha") == Session("alpha", 2, 100, "agent pid 2")
    assert Sessions(tmp_path).open("alpha", "agent pid 3", 300).epoch == 3


def test_a_stale_writer_is_refused(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.open("alpha", "one", 1)
    sessions.check("alpha", 1)
    sessions.open("alpha", "two", 2)
    for epoch in (0, 1, 3):
        with pytest.raises(StaleWriterError, match="the current epoch is 2"):
            sessions.check("alpha", epoch)


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../x", ".hidden", "a b", "a\0b", "a" * 129, "é", "-x", "a\n"])
def test_a_session_id_is_never_a_path_trick(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InvalidSessionIdError):
        Sessions(tmp_path / "sessions").open(bad, "writer", 1)
    assert list((tmp_path / "sessions").iterdir()) == []


def test_an_unknown_session_is_named(tmp_path: Path) -> None:
    with pytest.raises(SessionNotFoundError, match="There is no session beta"):
        Sessions(tmp_path).get("beta")


@pytest.mark.parametrize("offset", [3, 12, 30, 511, 515, 700, 1023])
def test_one_flipped_byte_does_not_lose_the_epoch(tmp_path: Path, offset: int) -> None:
    Sessions(tmp_path).open("alpha", "one", 1)
    flip(tmp_path / "alpha" / "writer", offset)
    assert Sessions(tmp_path).open("alpha", "two", 2).epoch == 2


def test_two_damaged_copies_are_an_error_and_not_a_new_epoch(tmp_path: Path) -> None:
    Sessions(tmp_path).open("alpha", "one", 1)
    flip(tmp_path / "alpha" / "writer", 12)
    flip(tmp_path / "alpha" / "writer", 524)
    with pytest.raises(SessionCorruptError):
        Sessions(tmp_path).open("alpha", "two", 2)


def test_the_writer_format_is_pinned() -> None:
    data = encode_session(Session("alpha", 7, 1_700_000_000_000_000_000, "selfware-agent pid 812"))
    assert len(data) == 1024
    assert blake3(data).hexdigest() == "fff6c891c5189b47623a1004af354e7f5c504a41bce85241162bf8b4b060a24d"


def test_a_writer_record_that_cannot_be_read_is_a_sentence_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Sessions(tmp_path).open("s", "w", 1)
    again = Sessions(tmp_path)

    def fail(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with (
        monkeypatch.context() as patch,
        pytest.raises(StorageError, match=r"read the writer of session s .* Input/outp"),
    ):
        patch.setattr(Path, "read_bytes", fail)
        again.get("s")
    assert again.get("s").epoch == 1
