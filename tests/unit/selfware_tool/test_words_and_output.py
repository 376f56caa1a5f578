"""Exit statuses in words, and output kept within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfware_tool.output import BoundedOutput
from selfware_tool.words import Ending


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        (Ending(0), "exited with status 0"),
        (Ending(1), "exited with status 1"),
        (Ending(127), "exited with status 127 (the program was not found)"),
        (Ending(137), "killed by SIGKILL"),
        (Ending(137, timed_out=True), "killed by SIGKILL after the time limit of 600 s"),
        (Ending(0, timed_out=True), "exited with status 0 after the time limit of 600 s"),
        (Ending(143, cancelled=True), "killed by SIGTERM because it was cancelled"),
        (Ending(153), "killed by SIGXFSZ: it wrote a file larger than allowed"),
        (Ending(255), "exited with status 255"),
    ],
)
def test_an_ending_is_told_in_words(ending: Ending, sentence: str) -> None:
    assert ending.sentence(600.0) == sentence


def keep(path: Path, limit: int, pieces: list[bytes]) -> tuple[bytes, BoundedOutput]:
    output = BoundedOutput(os.open(path, os.O_WRONLY | os.O_CREAT), limit)
    for piece in pieces:
        output.add(piece)
    output.close()
    return path.read_bytes(), output


def test_output_within_the_limit_is_kept_as_it_is(tmp_path: Path) -> None:
    kept, output = keep(tmp_path / "output", 10, [b"\x1b[2J", b"abc", b"\x00\xff"])
    assert kept == b"\x1b[2Jabc\x00\xff"
    assert (output.total_bytes, output.dropped_bytes) == (9, 0)


def test_the_middle_of_long_output_is_left_out_and_counted(tmp_path: Path) -> None:
    kept, output = keep(tmp_path / "output", 10, [b"abcdefgh", *[b"0123456789"] * 1000, b"wxyz"])
    assert kept == b"abcde\n[... 10002 bytes left out ...]\n9wxyz"
    assert (output.total_bytes, output.dropped_bytes) == (10012, 10002)


def test_the_end_held_in_memory_stays_small(tmp_path: Path) -> None:
    output = BoundedOutput(os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT), 1000)
    for _ in range(1000):
        output.add(b"x" * 400)
        assert len(output._tail) <= 1400
    output.close()


def test_a_full_disk_costs_output_but_not_the_action() -> None:
    output = BoundedOutput(os.open("/dev/full", os.O_WRONLY), 10)
    output.add(b"x" * 20)
    output.close()
    assert output.dropped_bytes == output.total_bytes == 20


def test_an_action_that_filled_the_disk_is_told_so() -> None:
    assert Ending(143, cancelled=True, no_room=True).sentence(60) == (
        "killed by SIGTERM because the disk of its workspace was nearly full"
    )
