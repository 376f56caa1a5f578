"""What the tests of saved trees share: a tree with one of everything, streams, and a reading of a tree that uses
nothing of the library, so that one mistake cannot hide in both."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

from selfware_common.trees import write_tree

AN_OLD_TIME = 1_600_000_000_123_456_789


def save(root: Path) -> bytes:
    out = bytearray()
    write_tree(root, out.extend)
    return bytes(out)


def stream(data: bytes | bytearray) -> io.BytesIO:
    return io.BytesIO(data)


def make_tree(root: Path) -> None:
    """One of everything that a capture keeps."""
    root.mkdir()
    (root / "empty").mkdir(mode=0o750)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "deep.txt").write_text("deep\n")
    (root / "a-b").write_text("sorts between a and a/b as a path\n")
    (root / "nothing").write_bytes(b"")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    (root / "binary").write_bytes(bytes(range(256)) * 300)
    (root / "link").symlink_to("a/b/deep.txt")
    (root / "dangling").symlink_to("/nowhere/at all")
    os.link(root / "program", root / "program again")
    os.mkfifo(root / "pipe", 0o640)
    with open(os.fsencode(root) + b"/\xff\xfe not utf-8", "wb") as file:
        file.write(b"named by bytes")
    (root / "new\nline").write_text("odd name\n")
    (root / "closed").mkdir()
    (root / "closed" / "inner").write_text("in a read-only directory\n")
    os.utime(root / "closed" / "inner", ns=(0, AN_OLD_TIME))
    (root / "closed").chmod(0o555)
    os.utime(root / "empty", ns=(0, AN_OLD_TIME))
    os.utime(root / "link", ns=(0, -5), follow_symlinks=False)


def reading(root: Path, times: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree, by other means than the library's."""
    found: dict[bytes, tuple[object, ...]] = {}
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        full = os.path.join(os.fsencode(root), path)
        status = os.lstat(full)
        what: object = None
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(path, name) for name in os.listdir(full)]
        elif stat.S_ISLNK(status.st_mode):
            what = os.readlink(full)
        elif stat.S_ISREG(status.st_mode):
            with open(full, "rb") as file:
                what = hashlib.sha256(file.read()).hexdigest()
        found[path] = (status.st_mode, what, status.st_mtime_ns if times else 0)
    return found
