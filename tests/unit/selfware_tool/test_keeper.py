"""The keeper: what it is asked over its connection, what it answers, and when it stops."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfware_common.errors import DiskFullError
from selfware_common.trees import tree_digest
from selfware_tool import keeper
from selfware_tool.units import HEADER

RUN = f"import sys; sys.path[:] = {sys.path!r}; from selfware_tool.keeper import main; main()"


class Asked:
    """One keeper, and the file that it is given."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - end() closes it
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(20)
        with theirs:
            self.process = subprocess.Popen([sys.executable, "-I", "-c", RUN], stdin=theirs.fileno(), cwd="/")

    def ask(self, **message: Any) -> dict[str, Any]:
        data = json.dumps(message).encode()
        socket.send_fds(self.connection, [HEADER.pack(len(data)) + data], [self.file.fileno()])
        with self.connection.makefile("rb") as answer:
            (length,) = HEADER.unpack(answer.read(HEADER.size))
            told = json.loads(answer.read(length))
        assert isinstance(told, dict)
        return told

    def end(self) -> int:
        self.connection.close()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.file.close()


@pytest.fixture
def asked() -> Iterator[Asked]:
    one = Asked()
    yield one
    one.end()


def capture(workspace: Path, **more: Any) -> dict[str, Any]:
    return {
        "tree": "capture", "workspace": str(workspace), "forbidden": [], "content_bytes": 1 << 30, "entries": 1000,
        "reserve_bytes": 0, "spool": "/spool", **more,
    }  # fmt: skip


def restore(workspace: Path, file: Any, captured: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "tree": "restore", "workspace": str(workspace), "forbidden": [], "offset": 0,
        "length": os.fstat(file.fileno()).st_size, "stream_hash": captured["stream_hash"], "dry_run": False, **more,
    }  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "w"
    path.mkdir()
    (path / "file").write_text("content\n")
    (path / "other").write_text("more\n")
    return path


def test_what_it_writes_is_what_it_restores(asked: Asked, workspace: Path) -> None:
    before = tree_digest(workspace)
    captured = asked.ask(**capture(workspace))
    assert (captured["files"], captured["entries"]) == (2, 3)
    assert captured["stream_bytes"] == os.fstat(asked.file.fileno()).st_size
    (workspace / "file").unlink()
    (workspace / "new\x1b").mkdir()
    another = Asked()
    another.file = asked.file
    told = another.ask(**restore(workspace, asked.file, captured))
    assert tree_digest(workspace) == before
    assert told == {
        "created": {"count": 1, "paths": ["file"]},
        "changed": {"count": 0, "paths": []},
        "deleted": {"count": 1, "paths": ["new\\x1b"]},
    }
    another.connection.close()
    assert another.process.wait(10) == 0


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"workspace": "/etc"}, "refused"),
        ({"workspace": "/nowhere"}, "refused"),
        ({"forbidden": ["/"]}, "refused"),
        ({"content_bytes": 12}, "TreeTooLargeError"),
        ({"entries": 2}, "TreeTooLargeError"),
        ({"reserve_bytes": 1 << 60}, "DiskFullError"),
    ],
)
def test_an_error_is_answered_as_one(asked: Asked, workspace: Path, more: dict[str, Any], error: str) -> None:
    told = asked.ask(**{**capture(workspace), **more})
    assert told["error"] == error, told
    assert all(isinstance(value, str) for value in told["fields"].values())


def test_another_tree_than_the_one_asked_for_is_not_restored(asked: Asked, workspace: Path) -> None:
    captured = asked.ask(**capture(workspace))
    (workspace / "file").write_text("now\n")
    another = Asked()
    another.file = asked.file
    told = another.ask(**restore(workspace, asked.file, captured, stream_hash="00" * 32))
    assert told["error"] == "TreeDamagedError"
    assert (workspace / "file").read_text() == "now\n"
    another.connection.close()
    another.process.wait(10)


def test_it_ends_with_whoever_asked(workspace: Path) -> None:
    """While it waits, and in the middle of its work."""
    assert Asked().end() == 0
    asked = Asked()
    os.truncate(workspace / "file", 20 << 30)  # sparse: minutes of reading
    data = json.dumps(capture(workspace, content_bytes=1 << 40, reserve_bytes=0)).encode()
    null = os.open("/dev/null", os.O_WRONLY)
    socket.send_fds(asked.connection, [HEADER.pack(len(data)) + data], [null])
    os.close(null)
    with pytest.raises(subprocess.TimeoutExpired):
        asked.process.wait(1)
    assert asked.end() == 1


def test_room_is_made_sure_of_before_anything_is_changed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile() as file:
        captured = keeper._capture(capture(workspace), str(workspace), file.fileno())
        (workspace / "file").unlink()
        (workspace / "other").write_text("now\n")
        monkeypatch.setattr(keeper, "_free_bytes", lambda _file: keeper.SPARE_BYTES)
        with pytest.raises(DiskFullError, match="No space left for the files of a checkpoint"):
            keeper._restore(restore(workspace, file, captured), str(workspace), file.fileno())
        assert not (workspace / "file").exists()
        assert (workspace / "other").read_text() == "now\n"


def test_a_unit_that_waits_for_an_action_has_not_paid_for_a_keeper() -> None:
    code = f"import sys; sys.path[0:0] = {sys.path!r}; import selfware_tool.unit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"selfware_tool.keeper", "selfware_common.errors", "blake3", "grpc", "threading"} & loaded
