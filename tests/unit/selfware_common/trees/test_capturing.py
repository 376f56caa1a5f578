"""A capture of a tree that is hostile, unreadable, too large or never at rest."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfware_common.trees import (
    Kind,
    Limits,
    TreeCaptureError,
    TreeTooLargeError,
    capturing,
    read_tree,
    restore_tree,
    tree_digest,
    write_tree,
)
from tests.unit.selfware_common.trees.helpers import reading, save, stream

NOBODY = 65534


def kinds(data: bytes) -> dict[bytes, Kind]:
    return {entry.path: entry.kind for entry in read_tree(stream(data))}


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory in which permissions count, also for root."""
    base = Path(tempfile.mkdtemp())
    root_runs_this = os.geteuid() == 0
    if root_runs_this:
        os.chown(base, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield base
    finally:
        if root_runs_this:
            os.seteuid(0)
            os.setegid(0)
        subprocess.run(["chmod", "-R", "u+rwX", base], check=True)
        shutil.rmtree(base)


def test_what_cannot_be_read_is_named_and_survives_a_restore(as_nobody: Path) -> None:
    root = as_nobody / "root"
    (root / "shut" / "in").mkdir(parents=True)
    (root / "secret").write_text("secret")
    (root / "open").write_text("open")
    (root / "secret").chmod(0)
    (root / "shut").chmod(0)
    out = bytearray()
    summary = write_tree(root, out.extend)
    assert (summary.unread.count, sorted(summary.unread.shown)) == (
        2,
        ["secret: Permission denied", "shut: Permission denied"],
    )
    assert kinds(out)[b"secret"] == kinds(out)[b"shut"] == Kind.UNREAD
    (root / "open").write_text("changed")
    (root / "extra").write_text("extra")
    restore_tree(stream(out), root)
    (root / "secret").chmod(0o600)
    (root / "shut").chmod(0o700)
    assert (root / "secret").read_text() == "secret"
    assert (root / "shut" / "in").is_dir()
    assert (root / "open").read_text() == "open"
    assert not (root / "extra").exists()


def test_a_tree_without_rights_is_restored_by_its_owner(as_nobody: Path) -> None:
    root = as_nobody / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").write_text("one")
    (root / "d" / "e" / "f").chmod(0o400)
    (root / "d" / "e").chmod(0o500)
    (root / "d").chmod(0o500)
    data, before = save(root), reading(root)
    for directory in ("d", "d/e"):
        (root / directory).chmod(0o700)
    (root / "d" / "e" / "f").unlink()
    (root / "d" / "e" / "f").write_text("two")
    (root / "d" / "e" / "f").chmod(0)
    (root / "d" / "deeper" / "still").mkdir(parents=True)
    for directory in ("d/deeper/still", "d/deeper", "d/e", "d"):
        (root / directory).chmod(0)
    restore_tree(stream(data), root)
    assert reading(root) == before


def test_sockets_are_left_out_and_pipes_are_kept_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    out = bytearray()
    summary = write_tree(tmp_path, out.extend)  # would hang if it opened the pipe
    assert kinds(out) == {b"": Kind.DIRECTORY, b"pipe": Kind.PIPE}
    assert (summary.left_out.count, summary.left_out.shown, summary.pipes) == (1, ["socket"], 1)


def test_a_tree_deeper_than_descriptors_stack_and_path_allow(tmp_path: Path) -> None:
    depth = 1300  # more than descriptors (1,024) and recursion (1,000) allow, and than a path may have bytes
    root = tmp_path / "root"
    root.mkdir()
    place = os.open(root, os.O_RDONLY)
    for level in range(depth):
        os.mkdir("down", dir_fd=place)
        if level % 500 == 200:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
            os.mkdir("a", dir_fd=place)
            os.mkdir("x", dir_fd=place)
        below = os.open("down", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    data = save(root)
    assert len(read_tree(stream(data))) == depth + 1 + 3 * 3
    digest = tree_digest(root)
    restore_tree(stream(data), tmp_path / "copy")
    assert tree_digest(tmp_path / "copy") == digest
    assert save(tmp_path / "copy") == data
    (tmp_path / "flat").mkdir()
    flat = save(tmp_path / "flat")
    for deep in (root, tmp_path / "copy"):
        restore_tree(stream(flat), deep)
        assert os.listdir(deep) == []


def test_a_tree_too_deep_for_the_format_is_cut_and_says_so(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("x" * 250, dir_fd=place)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    out = bytearray()
    summary = write_tree(tmp_path, out.extend)
    assert summary.unread.count == 1
    assert "too deep" in summary.unread.shown[0]
    assert list(kinds(out).values())[-1] == Kind.UNREAD
    before = summary.tree_hash
    restore_tree(stream(out), tmp_path)
    assert tree_digest(tmp_path) == before
    (tmp_path / "flat").mkdir()
    restore_tree(stream(save(tmp_path / "flat")), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_sparse_file_of_a_terabyte_is_an_error_and_not_a_day_of_reading(tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TreeTooLargeError, match="with huge it holds more than 1073741824 bytes"):
        save(tmp_path)


def test_too_many_entries_are_an_error(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}").touch()
    with pytest.raises(TreeTooLargeError, match="more than 10 entries"):
        write_tree(tmp_path, lambda _: None, Limits(entries=10))


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TreeCaptureError, match="No such file"):
        save(tmp_path / "nowhere")


def test_an_error_of_the_receiver_is_not_taken_for_one_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")

    def write(data: bytes) -> None:
        if data == b"content":
            raise PermissionError("not here")

    with pytest.raises(PermissionError, match="not here"):
        write_tree(tmp_path, write)


def test_another_file_system_is_not_entered(tmp_path: Path) -> None:
    script = (
        "set -e; mkdir m; mount -t tmpfs none m; echo x > m/x\n"
        f"{sys.executable} -c '\nimport pathlib, sys\nfrom selfware_common.trees import write_tree, restore_tree\n"
        'import io\nout = bytearray()\nsummary = write_tree(pathlib.Path("."), out.extend)\n'
        'print(summary.unread.shown)\nrestore_tree(io.BytesIO(out), pathlib.Path("."))\n\' && cat m/x'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.stdout == "['m: another file system']\nx\n", done.stderr


@pytest.mark.parametrize("buffered", [capturing.BUFFERED_BYTES, 1000])
def test_a_file_that_never_rests_is_written_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffered: int
) -> None:
    monkeypatch.setattr(capturing, "BUFFERED_BYTES", buffered)
    path = tmp_path / "log"
    path.write_bytes(b"x" * 200_000)
    real = os.read
    grow = True

    def read(fd: int, length: int) -> bytes:
        data = real(fd, length)
        if grow:
            with open(path, "ab") as file:
                file.write(b"more")
        return data

    monkeypatch.setattr(os, "read", read)
    out = bytearray()
    summary = write_tree(tmp_path, out.extend)
    assert (summary.changing.count, summary.changing.shown) == (1, ["log"])
    read_tree(stream(out)).check_contents()
    grow = False
    assert write_tree(tmp_path, lambda _: None).changing.count == 0


def test_a_file_that_changes_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    real, calls = os.read, []

    def read(fd: int, length: int) -> bytes:
        data = real(fd, length)
        if not calls:
            path.write_bytes(b"new, and longer")
        calls.append(length)
        return data

    monkeypatch.setattr(os, "read", read)
    out = bytearray()
    assert write_tree(tmp_path, out.extend).changing.count == 0
    assert b"new, and longer" in out
    assert b"old" not in out


@pytest.mark.parametrize("was", ["directory", "file", "link", "pipe"])
@pytest.mark.parametrize("becomes", ["nothing", "file", "pipe", "link to a directory", "link to a file"])
def test_a_swap_between_looking_and_opening_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str, becomes: str
) -> None:
    secret, place = tmp_path / "secret", tmp_path / "root" / "x"
    secret.mkdir()
    (secret / "inner").write_text("TOP SECRET")
    place.parent.mkdir()
    (place.parent / "y").write_text("comes after it")

    def put(what: str) -> None:
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink(missing_ok=True)
        if what == "directory":
            place.mkdir()
        elif what == "file":
            place.write_text("harmless")
        elif what == "pipe":
            os.mkfifo(place)
        elif what != "nothing":
            place.symlink_to(secret if what == "link to a directory" else secret / "inner")

    put(was)
    real = os.stat

    def look(path: object, **how: object) -> os.stat_result:
        status = real(path, **how)  # type: ignore[call-overload]
        if path == b"x":
            monkeypatch.setattr(os, "stat", real)
            put(becomes)
        return status  # type: ignore[no-any-return]

    monkeypatch.setattr(os, "stat", look)
    data = save(place.parent)
    assert b"TOP SECRET" not in data
    assert b"comes after it" in data
    read_tree(stream(data)).check_contents()
    found = kinds(data)
    assert b"x/inner" not in found
    if was != "pipe":  # which is written down as it was seen, without being opened
        kind = {"nothing": None, "file": Kind.FILE, "pipe": Kind.PIPE}.get(becomes, Kind.LINK)
        assert found.get(b"x") == kind


SWAP = """
import os, pathlib, sys
root, secret = map(pathlib.Path, sys.argv[1:])
place = root / "deep" / "x"
print("begun", flush=True)
while True:
    place.mkdir()
    (place / "inner").write_text("harmless")
    (place / "inner").unlink()
    (place / "inner").symlink_to(secret / "inner")
    (place / "inner").unlink()
    os.mkfifo(place / "inner")
    (place / "inner").unlink()
    place.rmdir()
    place.symlink_to(secret)
    place.unlink()
    place.write_text("harmless")
    place.unlink()
"""


def test_swapping_links_files_and_directories_never_lets_a_capture_out(tmp_path: Path) -> None:
    """Another process exchanges a directory, a file and a link to a secret, as fast as it can."""
    secret, root = tmp_path / "secret", tmp_path / "root"
    secret.mkdir()
    (secret / "inner").write_text("TOP SECRET")
    (root / "deep").mkdir(parents=True)
    seen: set[Kind] = set()
    deadline = time.monotonic() + 60
    with subprocess.Popen([sys.executable, "-c", SWAP, root, secret], stdout=subprocess.PIPE) as swapping:
        assert swapping.stdout is not None
        swapping.stdout.readline()
        try:
            captures = 0
            while captures < 200 or not seen >= {Kind.LINK, Kind.FILE, Kind.PIPE}:
                data = save(root)
                assert b"TOP SECRET" not in data
                read_tree(stream(data)).check_contents()
                seen |= set(kinds(data).values())
                captures += 1
                assert time.monotonic() < deadline, seen
        finally:
            swapping.kill()
