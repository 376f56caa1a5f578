"""Saves a workspace and puts it back, as the one user that may read and write all of it: the tool's.

A unit is asked for it instead of for an action (``unit``); where systemd makes no units, oversightd starts this program
for it. The file to write to or to read from comes along; one message answers. Nothing in the tree is run or followed
(``selfware_common.trees``). When whoever asked is gone, it ends in the middle: a capture has then done nothing, and a
restore is to be repeated, with nobody at work in the workspace meanwhile.

    {"tree": "capture", "workspace", "forbidden", "content_bytes", "entries", "reserve_bytes", "spool"}
    {"tree": "restore", "workspace", "forbidden", "offset", "length", "stream_hash", "dry_run"}

Answers {"error": class, "fields"} or counts and the first names. Imported when it is asked for: an action needs none.
"""

from __future__ import annotations

import io
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.sockets import NO_SPACE
from selfware_common.state.sections import WORKSPACE, Section, SectionFile
from selfware_common.trees import (
    Limits,
    Plan,
    Tree,
    TreeDamagedError,
    plan_restore,
    read_tree,
    restore_tree,
    write_tree,
)
from selfware_common.trees.errors import printable
from selfware_common.trees.summary import Named

from .namespaces import hide_from_actions
from .refusal import RefusalError
from .unit import HEADER, receive
from .workspace import require_workspace

REFUSED = "refused"  # stands for a class: the workspace must not be one
MOST_PATHS = 200  # of each kind in an answer
MOST_CHARACTERS = 300  # of a path in an answer: its end
SPARE_BYTES = 16 * 1024 * 1024  # left free by a restore
_PIECE_BYTES = 1024 * 1024


def main() -> int:
    """Standard input is the connection."""
    hide_from_actions()
    connection = socket.socket(fileno=os.dup(0))
    received = receive(connection)
    if received is not None:
        keep(connection, *received)
    os._exit(0)


def keep(connection: socket.socket, message: dict[str, Any], file: int) -> None:
    """Do what the message asks and answer it."""
    done = threading.Event()
    threading.Thread(target=_end_when_left, args=(connection, done), daemon=True).start()
    os.umask(0)  # each entry has the mode that was saved
    call = {"capture": _capture, "restore": _restore}[message["tree"]]
    told: dict[str, Any]
    try:
        told = call(message, require_workspace(message["workspace"], tuple(message["forbidden"])), file)
    except SelfwareError as error:
        fields = {name: str(value) for name, value in error.fields.items()}
        told = {"error": type(error).__name__, "fields": fields}
    except RefusalError as error:
        told = {"error": REFUSED, "fields": {"problem": str(error)}}
    except OSError as error:
        problem = f"workspace {message['workspace']} cannot be worked in: {error.strerror or error}"
        told = {"error": REFUSED, "fields": {"problem": problem}}
    done.set()
    data = json.dumps(told).encode("ascii")
    connection.sendall(HEADER.pack(len(data)) + data)


def _end_when_left(connection: socket.socket, done: threading.Event) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.poll()
    os._exit(0 if done.is_set() else 1)


def _capture(message: dict[str, Any], workspace: str, file: int) -> dict[str, Any]:
    spool = _Spool(file, int(message["reserve_bytes"]), Path(message["spool"]))
    limits = Limits(int(message["content_bytes"]), int(message["entries"]))
    summary = write_tree(Path(workspace), spool.write, limits)
    spool.flush()
    return {
        "stream_hash": summary.stream_hash.hex(),
        "stream_bytes": summary.stream_bytes,
        "files": summary.files,
        "entries": summary.directories + summary.files + summary.links + summary.pipes + summary.unread.count,
        "left_out": _named(summary.left_out),
        "unread": _named(summary.unread),
        "changing": _named(summary.changing),
    }


class _Spool:
    """The file that the stream goes to; it leaves room on its disk, where oversightd's ledger lies."""

    def __init__(self, file: int, reserve_bytes: int, place: Path) -> None:
        self._file, self._reserve_bytes, self._place = file, reserve_bytes, place
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        if _free_bytes(self._file) - len(self._waiting) < self._reserve_bytes:
            raise DiskFullError(what="a system checkpoint", path=self._place)
        view = memoryview(self._waiting)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFullError(what="a system checkpoint", path=self._place) from error
            raise
        self._waiting = bytearray()


def _restore(message: dict[str, Any], workspace: str, file: int) -> dict[str, Any]:
    section = Section(WORKSPACE, workspace, int(message["offset"]), int(message["length"]))
    with open(file, "rb", buffering=0, closefd=False) as whole:
        stream = io.BufferedReader(SectionFile(cast("BinaryIO", whole), section), _PIECE_BYTES)
        tree = read_tree(stream)
        if tree.stream_hash.hex() != message["stream_hash"]:
            raise TreeDamagedError(problem="it is not the one that was asked for")
        tree.check_contents()
        plan = plan_restore(stream, Path(workspace))
        _require_room(tree, plan, workspace)
        paths = {"created": plan.created, "changed": plan.changed, "deleted": plan.deleted}
        counts = {name: len(found) for name, found in paths.items()}
        if not message["dry_run"]:
            done = restore_tree(stream, Path(workspace))
            counts = {"created": done.created, "changed": done.changed, "deleted": done.deleted}
    return {name: {"count": counts[name], "paths": _shown(found)} for name, found in paths.items()}


def _shown(paths: Sequence[bytes]) -> list[str]:
    return [printable(path)[-MOST_CHARACTERS:] for path in paths[:MOST_PATHS]]


def _require_room(tree: Tree, plan: Plan, workspace: str) -> None:
    """All that is new, and the largest of what is replaced, which is there twice for a moment."""
    created, changed = set(plan.created), set(plan.changed)
    more = most = 0
    for entry in tree:
        if entry.path in created:
            more += entry.content_bytes
        elif entry.path in changed:
            most = max(most, entry.content_bytes)
    place = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if more + most and more + most + SPARE_BYTES > _free_bytes(place):
            raise DiskFullError(what="the files of a checkpoint", path=workspace)
    finally:
        os.close(place)


def _free_bytes(file: int) -> int:
    found = os.fstatvfs(file)
    return found.f_bavail * found.f_frsize


def _named(found: Named) -> dict[str, Any]:
    return {"count": found.count, "shown": [text[-MOST_CHARACTERS:] for text in found.shown]}


if __name__ == "__main__":
    sys.exit(main())
