"""Says what a restore would do, and does nothing: for a person who has to decide."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from selfware_common.trees.descent import Descent, names_in, open_root
from selfware_common.trees.merging import Level, Merge, has_mode
from selfware_common.trees.reading import Tree, read_tree
from selfware_common.trees.stream import Entry, Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """Paths relative to the root, each sorted. Changed is another kind, content, target or mode, not another time.

    A directory that goes, with all that is in it, is named alone.
    """

    created: tuple[bytes, ...]
    changed: tuple[bytes, ...]
    deleted: tuple[bytes, ...]


def plan_restore(stream: BinaryIO, root: Path, set_id: bool = False) -> Plan:
    """What restore_tree, called alike, would create, change and delete.

    TreeDamagedError, TreeVersionError; TreeRestoreError where it cannot even look.
    A directory that we may not read is taken for empty, and so is a root that is not there.
    """
    tree = read_tree(stream)
    if not root.exists():
        return Plan(tuple(entry.path for entry in tree if entry.kind != Kind.UNREAD), (), ())
    with Descent(open_root(root)) as descent:
        planning = _Planning(tree, root, descent, set_id)
        planning.run()
    return Plan(tuple(planning.created), tuple(planning.changed), tuple(planning.deleted))


class _Planning(Merge):
    """Collects the names."""

    def __init__(self, tree: Tree, root: Path, descent: Descent, set_id: bool) -> None:
        super().__init__(tree, root, descent, set_id)
        self.created: list[bytes] = []
        self.changed: list[bytes] = []
        self.deleted: list[bytes] = []

    def _delete(self, name: bytes) -> None:
        self.deleted.append(self._path_of(name))

    def _directory(self, entry: Entry, status: os.stat_result | None) -> Level:
        self._leaf(entry, status)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return Level(entry, [], is_real=False)
        try:
            if entry.depth:
                self._descent.enter(entry.name)
        except PermissionError:
            return Level(entry, [], is_real=False)
        return Level(entry, names_in(self._descent.fd))

    def _leaf(self, entry: Entry, status: os.stat_result | None) -> None:
        if status is None:
            self.created.append(entry.path)
        elif not (has_mode(entry, status) and self._is_same(entry, status)):
            self.changed.append(entry.path)

    def _leave(self, level: Level) -> None:
        if level.is_real and self._levels:
            self._descent.leave()
