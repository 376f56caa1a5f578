"""What was large and is free again is the system's, though something small lies behind it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from selfware_checkpointd import __main__ as program

SCRIPT = """
import sys
from pathlib import Path
from selfware_checkpointd.allocator import LARGE_BYTES, keep_large_blocks_apart

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "apart" and not keep_large_blocks_apart():
    sys.exit("no such setting")
for size in (4, 3, 2):
    bytearray(b"x") * (size * LARGE_BYTES)  # freed at once: a sign to the allocator
begin = resident()
large, behind = [], []
for _ in range(8):
    large.append(bytearray(b"x") * (2 * LARGE_BYTES))
    behind.append(bytearray(b"x") * 100_000)
del large
print((resident() - begin) // LARGE_BYTES)
"""


@pytest.mark.parametrize(("how", "least", "most"), [("apart", 0, 1), ("left alone", 8, 16)])
def test_large_blocks_are_given_back(how: str, least: int, most: int) -> None:
    argv = [sys.executable, "-c", SCRIPT, how]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if "no such setting" in ended.stderr:
        pytest.skip("the C library has no mallopt")
    assert least <= int(ended.stdout) <= most, ended.stderr


def test_the_daemon_asks_for_it_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(program, "keep_large_blocks_apart", lambda: done.append("apart"))
    monkeypatch.setattr(program.daemon, "run", lambda _: done.append("run"))
    program.main()
    assert done == ["apart", "run"]
