"""Says whether two trees are equal, and where they differ. Times never count: a commit or a build changes them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from selfware_common.trees.capturing import write_tree
from selfware_common.trees.reading import read_tree
from selfware_common.trees.stream import Entry
from selfware_common.trees.summary import Limits

_NO_LIMITS = Limits(1 << 62, 1 << 62)


@dataclass(frozen=True, slots=True)
class Difference:
    """Paths, sorted as in a stream. A path whose kind changed is a changed one."""

    added: tuple[bytes, ...]
    changed: tuple[bytes, ...]
    deleted: tuple[bytes, ...]


def tree_digest(root: Path) -> bytes:
    """BLAKE3-256 over path, kind, mode, target and content of everything; Tree.tree_hash of its stream is the same.

    TreeCaptureError if the root cannot be read.
    """
    return write_tree(root, lambda _: None, _NO_LIMITS).tree_hash


def diff_trees(before: BinaryIO, after: BinaryIO) -> Difference:
    """What a stream has that another has not, by their entries alone. TreeDamagedError, TreeVersionError."""
    added: list[bytes] = []
    changed: list[bytes] = []
    deleted: list[bytes] = []
    for old, new in _pairs(iter(read_tree(before)), iter(read_tree(after))):
        if old is None and new is not None:
            added.append(new.path)
        elif new is None and old is not None:
            deleted.append(old.path)
        elif old is not None and new is not None and old.canonical() != new.canonical():
            changed.append(new.path)
    return Difference(tuple(added), tuple(changed), tuple(deleted))


def _pairs(old: Iterator[Entry], new: Iterator[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Both in order at once, side by side where the path is the same."""
    left, right = next(old, None), next(new, None)
    while left is not None or right is not None:
        if right is None or (left is not None and _order(left) < _order(right)):
            yield left, None
            left = next(old, None)
        elif left is None or _order(right) < _order(left):
            yield None, right
            right = next(new, None)
        else:
            yield left, right
            left, right = next(old, None), next(new, None)


def _order(entry: Entry) -> bytes:
    """A slash before any other byte: what is in a directory comes right after it."""
    return entry.path.replace(b"/", b"\0")
