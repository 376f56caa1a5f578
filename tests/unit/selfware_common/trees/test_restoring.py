"""A restore makes the tree equal, leaves alone what is equal, stays inside, and may be killed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfware_common.errors import DiskFullError
from selfware_common.trees import TreeRestoreError, plan_restore, restore_tree, restoring
from tests.unit.selfware_common.trees.helpers import make_tree, reading, save, stream


def test_every_kind_turns_into_every_other(tmp_path: Path) -> None:
    def make(root: Path, turn: int) -> None:
        root.mkdir()
        for number in range(5):
            path = root / f"{number}"
            kind = (number + turn) % 5
            if kind == 0:
                (path / "in" / "side").mkdir(parents=True)
                (path / "in" / "file").write_text("x")
            elif kind == 1:
                path.write_text("file")
            elif kind == 2:
                path.symlink_to("/etc")
            elif kind == 3:
                os.mkfifo(path)

    for turn in range(5):
        for other in range(5):
            one, two = tmp_path / f"{turn}-{other}-one", tmp_path / f"{turn}-{other}-two"
            make(one, turn)
            make(two, other)
            restore_tree(stream(save(two)), one)
            assert reading(one) == reading(two)


def test_what_is_equal_is_not_touched(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    data = save(tmp_path / "tree")
    (tmp_path / "tree" / "a-b").write_text("changed")
    (tmp_path / "tree" / "extra").mkdir()
    (tmp_path / "tree" / "extra" / "inner").touch()
    inodes = {path: os.lstat(path).st_ino for path in (tmp_path / "tree").rglob("*") if not path.is_dir()}
    done = restore_tree(stream(data), tmp_path / "tree")
    assert (done.created, done.changed, done.deleted) == (0, 1, 1)
    for path, inode in inodes.items():
        if path.name not in ("a-b", "inner"):
            assert os.lstat(path).st_ino == inode, path
    assert save(tmp_path / "tree") == data


def test_a_plan_says_what_a_restore_does_and_does_nothing(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root)
    data = save(root)
    (root / "a-b").write_text("changed")
    (root / "program").chmod(0o700)
    (root / "link").unlink()
    (root / "link").mkdir()
    (root / "link" / "x").touch()
    (root / "extra").mkdir()
    (root / "extra" / "inner").touch()
    (root / "a" / "b" / "deep.txt").unlink()
    (root / "a" / "b").rmdir()
    (root / "a" / "b").write_text("a file now")
    before = reading(root)
    plan = plan_restore(stream(data), root)
    assert reading(root) == before
    assert plan.created == (b"a/b/deep.txt",)
    assert plan.changed == (b"a/b", b"a-b", b"link", b"program", b"program again")
    assert plan.deleted == (b"extra",)
    done = restore_tree(stream(data), root)
    assert (done.created, done.changed, done.deleted) == (1, 5, 1)
    empty = plan_restore(stream(data), root)
    assert (empty.created, empty.changed, empty.deleted) == ((), (), ())
    assert plan_restore(stream(data), tmp_path / "nowhere").created[:2] == (b"", b"a")


def test_links_in_the_way_are_replaced_and_never_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    (outside / "file").chmod(0o640)
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "file").write_text("ours")
    (root / "f").write_text("ours")
    data, wanted, theirs = save(root), reading(root), reading(outside)
    (root / "d" / "e" / "file").unlink()
    (root / "d" / "e").rmdir()
    (root / "d" / "e").symlink_to(outside)
    (root / "f").unlink()
    (root / "f").symlink_to(outside / "file")
    (root / "gone").symlink_to(outside)
    restore_tree(stream(data), root)
    assert reading(root) == wanted
    assert reading(outside) == theirs


def test_a_hard_link_to_a_file_outside_is_cut_before_anything_is_changed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.write_text("same content")
    outside.chmod(0o600)
    root.mkdir()
    (root / "file").write_text("same content")
    (root / "file").chmod(0o755)
    data, wanted, theirs = save(root), reading(root), os.stat(outside)
    (root / "file").unlink()
    os.link(outside, root / "file")
    restore_tree(stream(data), root)
    now = os.stat(outside)
    assert reading(root) == wanted
    assert (now.st_mode, now.st_mtime_ns, now.st_ino) == (theirs.st_mode, theirs.st_mtime_ns, theirs.st_ino)
    assert now.st_nlink == 1


def test_setuid_comes_back_only_where_it_is_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "shared").mkdir(parents=True)
    (root / "shared").chmod(0o2775)
    (root / "program").write_text("planted")
    (root / "program").chmod(0o6755)
    data = save(root)
    restore_tree(stream(data), root)
    assert stat.S_IMODE(os.stat(root / "program").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(root / "shared").st_mode) == 0o2775
    assert plan_restore(stream(data), root).changed == ()
    assert plan_restore(stream(data), root, set_id=True).changed == (b"program",)
    restore_tree(stream(data), root, set_id=True)
    assert save(root) == data


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_restores_belongs_to_who_had_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_tree(root)
    data = save(root)
    for path in [root, *root.rglob("*")]:
        os.chown(path, 1234, 1235, follow_symlinks=False)
    os.chown(root / "a-b", 4321, 4322)
    (root / "a-b").write_text("changed")
    shutil.rmtree(root / "a")
    (root / "link").unlink()
    (root / "pipe").unlink()
    (root / "program").unlink()
    restore_tree(stream(data), root)
    assert save(root) == data
    owners = {
        path.name: (os.lstat(path).st_uid, os.lstat(path).st_gid) for path in root.rglob("*") if not path.is_symlink()
    }
    assert owners.pop("a-b") == (4321, 4322)
    assert set(owners.values()) == {(1234, 1235)}


def test_a_full_disk_is_called_that_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    data = save(tmp_path / "tree")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(DiskFullError):
            restore_tree(stream(data), tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == []
    restore_tree(stream(data), tmp_path / "copy")
    assert reading(tmp_path / "copy") == reading(tmp_path / "tree")


def test_an_error_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "d" / "file").write_text("content")
    data = save(tmp_path / "tree")

    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(TreeRestoreError, match=r"d/file cannot be restored in .*: Operation not permitted"):
        restore_tree(stream(data), tmp_path / "copy")


def test_everything_is_synced_before_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    synced: list[list[str]] = []
    monkeypatch.setattr(restoring, "_sync_file_system", lambda fd: synced.append(os.listdir(fd)))
    (tmp_path / "tree" / "file").touch()
    restore_tree(stream(save(tmp_path / "tree")), tmp_path / "copy")
    assert synced == [["file"]]


RESTORE = (
    "import sys, pathlib; from selfware_common.trees import restore_tree; print('begun', flush=True); "
    "restore_tree(open(sys.argv[1], 'rb'), pathlib.Path(sys.argv[2]))"
)


def test_a_restore_that_is_killed_again_and_again_ends_with_the_same_tree(tmp_path: Path) -> None:
    chance = random.Random(7)
    for name, seed in (("one", 1), ("two", 2)):
        make_tree(tmp_path / name)
        content = random.Random(seed)
        for _ in range(400):
            directory = tmp_path / name / f"d{content.randrange(30)}"
            directory.mkdir(exist_ok=True)
            (directory / f"f{content.randrange(40)}").write_bytes(content.randbytes(content.randrange(60_000)))
    (tmp_path / "saved").write_bytes(save(tmp_path / "two"))
    killed = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", RESTORE, tmp_path / "saved", tmp_path / "one"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(chance.uniform(0.0, 0.03))  # not a wait for anything: the moment of the kill
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        killed += process.wait() == -signal.SIGKILL
    assert killed
    with open(tmp_path / "saved", "rb") as saved:
        restore_tree(saved, tmp_path / "one")
    assert reading(tmp_path / "one") == reading(tmp_path / "two")
