"""An incremental capture gives the stream that a full one gives, and reads only what changed."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from selfware_common.trees import Rebuilding, Summary, TreeDamagedError, TreeIndex, index, write_tree, write_tree_again
from tests.unit.selfware_common.trees.helpers import make_tree, save


def age(root: Path) -> None:
    """Wait until nothing in the tree can be racily clean, with a window of a moment."""
    newest = max(os.lstat(path).st_ctime_ns for path in [root, *root.rglob("*")])
    deadline = time.monotonic() + 10
    while time.time_ns() - index.RACY_NANOS <= newest:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def again(root: Path, before: bytes, known: TreeIndex) -> tuple[bytes, Summary]:
    output = Rebuilding(before)
    summary = write_tree_again(root, output, known)
    return bytes(output.stream), summary


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RACY_NANOS", 30_000_000)


def test_only_what_changed_is_read_and_the_stream_is_that_of_a_full_capture(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root)
    age(root)
    out = bytearray()
    first = write_tree(root, out.extend)
    assert first.index.stream_hash == first.stream_hash
    (root / "a-b").write_text("changed")
    (root / "new").write_text("new")
    (root / "binary").rename(root / "a" / "binary")
    (root / "nothing").unlink()
    stream, summary = again(root, bytes(out), first.index)
    assert stream == save(root)
    assert (summary.files, summary.reused_files) == (9, 6)
    age(root)
    second, summary2 = again(root, stream, summary.index)
    assert second == stream
    assert summary2.reused_files == 6  # the three that were too young to be remembered are read once more
    third, summary3 = again(root, second, summary2.index)
    assert third == second
    assert (summary3.reused_files, summary3.reused_bytes) == (9, summary3.content_bytes)


def test_a_file_changed_in_the_same_tick_is_read_again(tmp_path: Path) -> None:
    """Same size, same time of modification, written just before and just after the capture."""
    path = tmp_path / "file"
    path.write_text("one")
    out = bytearray()
    summary = write_tree(tmp_path, out.extend)
    assert not summary.index.files
    status = os.stat(path)
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    stream, _ = again(tmp_path, bytes(out), summary.index)
    assert b"two" in stream


def test_a_forged_time_of_modification_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    age(tmp_path)
    out = bytearray()
    summary = write_tree(tmp_path, out.extend)
    assert summary.index.files
    status = os.stat(path)
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    stream, _ = again(tmp_path, bytes(out), summary.index)
    assert b"two" in stream


def test_a_time_in_the_future_is_never_trusted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    os.utime(path, ns=(0, time.time_ns() + 10**15))
    age(tmp_path)
    assert not write_tree(tmp_path, lambda _: None).index.files


def test_another_stream_than_the_index_speaks_of_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    age(tmp_path)
    summary = write_tree(tmp_path, lambda _: None)
    with pytest.raises(TreeDamagedError, match="does not hold 'file'"):
        again(tmp_path, b"short", summary.index)


def test_many_random_edits_never_make_a_difference(tmp_path: Path) -> None:
    root, chance = tmp_path / "tree", random.Random(3)
    make_tree(root)
    stream, summary = again(root, b"", TreeIndex())
    for _ in range(40):
        for _ in range(5):
            name = f"{chance.randrange(12)}"
            script = chance.choice(
                [
                    f"echo {chance.random()} > {name}",
                    f"mv {name} {chance.randrange(12)}",
                    f"rm -rf {name}",
                    f"ln -f {name} {chance.randrange(12)}",
                    f"cp -p {name} a/{name}",
                    f"touch -d @1 {name}",
                    f"mkdir {name}",
                ]
            )
            subprocess.run(script, shell=True, cwd=root, stderr=subprocess.DEVNULL, check=False)
        if chance.random() < 0.3:
            age(root)
        stream, summary = again(root, stream, summary.index)
        assert stream == save(root)
