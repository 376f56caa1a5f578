"""What a power cut may leave of a recorded run: a model of files whose changes reach the disk when they like.

What was synced is there. What was not may be there or not:

- of a file, any prefix of the changes since its last sync; of the change that is torn any prefix of its bytes or any
  of its sectors, the others still being what they were (zeros where the file grew);
- of a directory, any prefix of its changes since its own last sync, whether or not the files they name were synced;
- after a failed sync of a file the changes before it stay uncertain for good, whatever is synced later: the kernel
  reports a failed write-back once and forgets the pages (the reader of the same boot still sees them).

This is more than any one file system permits, and what POSIX promises. Owns nothing; works on a record of ``Op``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.prove.faulty_files import Op

SECTOR_BYTES = 512

Image = dict[str, bytes | None]  # path -> content, None for a directory


class Reached(Enum):
    """How far a change of a file got."""

    PENDING = 0
    SYNCED = 1
    UNCERTAIN = 2


@dataclass(slots=True)
class Change:
    """Bytes at an offset, or with data None a new length."""

    offset: int
    data: bytes | None
    reached: Reached = Reached.PENDING

    def apply(self, content: bytearray) -> None:
        """Do it."""
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(slots=True)
class File:
    """A durable base and what happened since."""

    base: bytes = b""
    changes: list[Change] = field(default_factory=list)
    now: bytearray = field(default_factory=bytearray)

    def change(self, one: Change) -> None:
        """As the running machine sees it."""
        one.apply(self.now)
        self.changes.append(one)

    def sync(self, failed: bool) -> None:
        """All that is pending becomes durable, or uncertain for ever."""
        for one in self.changes:
            if one.reached is Reached.PENDING:
                one.reached = Reached.UNCERTAIN if failed else Reached.SYNCED
        shortest = None
        for one in reversed(self.changes):  # what a durable truncation cut off matters no more
            if one.reached is Reached.SYNCED and one.data is None:
                shortest = one.offset if shortest is None else min(shortest, one.offset)
            elif one.reached is Reached.UNCERTAIN and shortest is not None and one.offset >= shortest:
                one.reached = Reached.SYNCED
        if all(one.reached is Reached.SYNCED for one in self.changes):
            self.base, self.changes = bytes(self.now), []

    def after_power_cut(self, chance: random.Random, most: float) -> bytes:
        """Something legal; most: 0 keeps nothing that is pending, 1 all, else a random part."""
        content = bytearray(self.base)
        pending = [one for one in self.changes if one.reached is Reached.PENDING]
        count = {0.0: 0, 1.0: len(pending)}.get(most, chance.randint(0, len(pending)))
        done = 0
        for one in self.changes:
            if one.reached is Reached.SYNCED or (one.reached is Reached.UNCERTAIN and chance.random() < 0.5):
                one.apply(content)
            elif one.reached is Reached.PENDING:
                if done < count:
                    one.apply(content)
                elif done == count and 0 < most < 1:
                    _tear(one, content, chance)
                done += 1
        return bytes(content)


@dataclass(slots=True)
class Directory:
    """Names that are durable, and the changes since: (name, what it stands for from now on or None)."""

    base: dict[str, File | Directory] = field(default_factory=dict)
    changes: list[list[tuple[str, File | Directory | None]]] = field(default_factory=list)
    now: dict[str, File | Directory] = field(default_factory=dict)

    def change(self, *names: tuple[str, File | Directory | None]) -> None:
        """These names change together."""
        _rename(self.now, list(names))
        self.changes.append(list(names))

    def sync(self, failed: bool) -> None:
        """All names are durable; after a failed sync nothing is known, as before it."""
        if not failed:
            self.base, self.changes = dict(self.now), []

    def after_power_cut(self, chance: random.Random, most: float) -> dict[str, File | Directory]:
        """The names that some legal prefix of the changes leaves."""
        names = dict(self.base)
        for one in self.changes[: {0.0: 0, 1.0: len(self.changes)}.get(most, chance.randint(0, len(self.changes)))]:
            _rename(names, one)
        return names


class PageCache:
    """All files of a run."""

    def __init__(self) -> None:
        self._root = Directory()
        self._handles: dict[int, File | Directory] = {}

    def apply(self, op: Op) -> None:
        """The next thing that was done."""
        if op.kind in ("write", "truncate", "sync", "sync failed"):
            node = self._handles[op.handle]
            if op.kind.startswith("sync"):
                node.sync(failed=op.kind == "sync failed")
            else:
                assert isinstance(node, File)
                node.change(Change(op.offset, op.data if op.kind == "write" else None))
            return
        if op.path == ".":
            self._handles[op.handle] = self._root
            return
        parent, name = self._find(op.path)
        if op.kind == "open":
            self._handles[op.handle] = parent.now[name]
        elif op.kind == "create":
            self._handles[op.handle] = file = File()
            parent.change((name, file))
        elif op.kind == "mkdir":
            parent.change((name, Directory()))
        elif op.kind in ("unlink", "rmdir"):
            parent.change((name, None))
        else:
            target = op.other.rpartition("/")[2]
            node = parent.now[name]
            if target == name:  # POSIX: renaming a file to itself does nothing
                return
            parent.change((target, node), *([(name, None)] if op.kind == "rename" else []))

    def now(self) -> Image:
        """What a process that goes on, or the next one after `kill -9`, sees."""
        image: Image = {}
        _walk(self._root, "", image, lambda node: node.now, lambda file: bytes(file.now))
        return image

    def after_power_cut(self, chance: random.Random) -> Image:
        """One of the legal states of the disk, extremes more often than by chance."""
        names, data = chance.choice(
            [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
        )
        image: Image = {}
        _walk(
            self._root,
            "",
            image,
            lambda node: node.after_power_cut(chance, names),
            lambda file: file.after_power_cut(chance, data),
        )
        return image

    def _find(self, path: str) -> tuple[Directory, str]:
        *parents, name = path.split("/")
        node = self._root
        for parent in parents:
            below = node.now[parent]
            assert isinstance(below, Directory), path
            node = below
        return node, name


def put(image: Image, root: Path) -> None:
    """Make these files, below a directory that is not there yet."""
    root.mkdir()
    for path, content in image.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def taken(root: Path) -> Image:
    """What lies there now."""
    found = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in found}


def _walk(node: Directory, prefix: str, image: Image, names_of, content_of) -> None:  # type: ignore[no-untyped-def]
    for name, child in sorted(names_of(node).items(), key=lambda item: item[0]):
        if isinstance(child, Directory):
            image[prefix + name] = None
            _walk(child, f"{prefix}{name}/", image, names_of, content_of)
        else:
            image[prefix + name] = content_of(child)


def _rename(names: dict[str, File | Directory], change: list[tuple[str, File | Directory | None]]) -> None:
    for name, node in change:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _tear(one: Change, content: bytearray, chance: random.Random) -> None:
    """Some of the bytes of a write: the first ones, or any sectors."""
    if one.data is None:
        return
    if chance.random() < 0.5:
        Change(one.offset, one.data[: chance.randint(0, len(one.data))]).apply(content)
        return
    new = bytearray(content)
    one.apply(new)
    content.extend(bytes(len(new) - len(content)))
    first = one.offset // SECTOR_BYTES * SECTOR_BYTES
    for start in range(first, one.offset + len(one.data), SECTOR_BYTES):
        if chance.random() < 0.5:
            content[start : start + SECTOR_BYTES] = new[start : start + SECTOR_BYTES]
