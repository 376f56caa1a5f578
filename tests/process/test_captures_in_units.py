"""System checkpoints through tool.sock: oversightd asks a tool unit, which is another user's.

In systemd's place a thread starts the unit's program for each connection; as root it runs as a user of its own, who
alone may open what it made. What only a real unit has is in tests/system/test_tool_unit.py.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfware_common.trees import tree_digest
from tests.process.test_captures import Whole, fill, wreck
from tests.process.test_oversightd import until

TOOL, OTHERS = 65534, 12345  # nobody, and a group that it is not in
IS_ROOT = os.geteuid() == 0
UNIT = """
import os, sys
sys.path[:] = {path!r}
import encodings.ascii, encodings.latin_1, selfware_tool.keeper  # where Python lies, another user may not read
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({tool})
    os.setuid({tool})
from selfware_tool.unit import main
sys.exit(main())
"""


class Units:
    """Listens as selfware-tool.socket does."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def end(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        for process in self.processes:
            process.kill()
            process.wait(10)

    def _accept(self) -> None:
        code = UNIT.format(path=[place for place in sys.path if place], tool=TOOL)
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                words = [sys.executable, "-I", "-S", "-c", code]
                self.processes.append(subprocess.Popen(words, stdin=connection.fileno(), env={}))


@pytest.fixture
def whole() -> Iterator[Whole]:
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        units = Units(Path(directory) / "run/tool.sock")
        whole = Whole(Path(directory))
        try:
            yield whole
        finally:
            whole.end()
            units.end()


def give_to_the_tool(root: Path) -> None:
    if IS_ROOT:
        for path in [root, *root.rglob("*")]:
            os.chown(path, TOOL, TOOL, follow_symlinks=False)


def test_a_unit_saves_and_restores_what_is_its_users_alone(whole: Whole) -> None:
    assert whole.stack.get("/status")[1]["health"] == "ok"
    fill(whole.workspace)
    give_to_the_tool(whole.workspace)
    before = tree_digest(whole.workspace)
    captured = whole.capture()
    assert list(captured.notes) == []
    wreck(whole.workspace)
    give_to_the_tool(whole.workspace)
    whole.pause()
    status, told = whole.restore(captured.checkpoint_id)
    assert status == 200, told
    assert tree_digest(whole.workspace) == before
    secret = (whole.workspace / "secret").stat()
    assert stat.S_IMODE(secret.st_mode) == 0o600
    assert secret.st_uid == (TOOL if IS_ROOT else os.geteuid())


@pytest.mark.skipif(not IS_ROOT, reason="needs a group that the tool's user is not in")
def test_a_directory_that_comes_back_has_its_group_from_the_one_above(whole: Whole) -> None:
    """As in /var/lib/selfware/workspaces: set-group-id, for a group whose bit the tool's user cannot set."""
    os.chown(whole.workspace, TOOL, OTHERS)
    whole.workspace.chmod(0o2770)
    (whole.workspace / "sub").mkdir()
    (whole.workspace / "sub").chmod(0o2750)
    (whole.workspace / "sub/file").write_text("x\n")
    for name, mode in (("sub", 0o2750), ("sub/file", 0o640)):
        os.chown(whole.workspace / name, TOOL, OTHERS)
        (whole.workspace / name).chmod(mode)
    before = tree_digest(whole.workspace)
    captured = whole.capture()
    (whole.workspace / "sub/file").unlink()
    (whole.workspace / "sub").rmdir()
    whole.pause()
    assert whole.restore(captured.checkpoint_id)[0] == 200
    found = (whole.workspace / "sub").stat()
    assert (oct(stat.S_IMODE(found.st_mode)), found.st_gid) == (oct(0o2750), OTHERS)
    assert tree_digest(whole.workspace) == before


@pytest.mark.skipif(not IS_ROOT, reason="needs two users")
def test_what_the_tools_user_cannot_read_is_named_and_left_alone(whole: Whole) -> None:
    whole.workspace.chmod(0o777)
    (whole.workspace / "operators").write_text("not the tool's\n")
    (whole.workspace / "operators").chmod(0o600)
    captured = whole.capture()
    assert list(captured.notes) == [f"{whole.workspace}: 1 not readable (operators: Permission denied)"]
    (whole.workspace / "operators").write_text("changed\n")
    (whole.workspace / "new").write_text("goes\n")
    whole.pause()
    status, told = whole.restore(captured.checkpoint_id)
    assert status == 200, told
    assert (whole.workspace / "operators").read_text() == "changed\n"
    assert not (whole.workspace / "new").exists()


def test_units_that_wait_are_replaced_after_one_was_asked(whole: Whole) -> None:
    fill(whole.workspace)
    give_to_the_tool(whole.workspace)
    for _ in range(3):
        assert whole.capture().checkpoint_id
    waiting: Any = until(lambda: len(os.listdir(f"/proc/{whole.stack.process.pid}/fd")) if whole.stack.process else 0)
    for _ in range(3):
        assert whole.capture().checkpoint_id
    assert whole.stack.process is not None
    until(lambda: len(os.listdir(f"/proc/{whole.stack.process.pid}/fd")) <= waiting if whole.stack.process else 0)
