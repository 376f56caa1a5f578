"""Has workspaces saved and put back by the tool's user (selfware_tool.keeper): in a tool unit, or in a process of ours
where there are none. Owns the connection and that process; when we stop waiting, the keeper ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.paths import Paths
from selfware_common.state.sections import Section
from selfware_common.trees.errors import (
    TreeCaptureError,
    TreeDamagedError,
    TreeRestoreError,
    TreeTooLargeError,
    TreeVersionError,
)
from selfware_oversightd.config import forbidden_places
from selfware_oversightd.errors import InvalidRequestError
from selfware_oversightd.spool import RESERVE_BYTES, Spool
from selfware_oversightd.tools import Tools
from selfware_tool.units import HEADER

LONGEST_SECONDS = 1800.0  # for one workspace, beyond which something is stuck
MOST_ENTRIES = 1_000_000
REFUSED = "refused"

_ERRORS: dict[str, type[SelfwareError]] = {
    kind.__name__: kind
    for kind in (
        DiskFullError,
        TreeCaptureError,
        TreeDamagedError,
        TreeRestoreError,
        TreeTooLargeError,
        TreeVersionError,
    )
} | {REFUSED: InvalidRequestError}


class KeeperGoneError(SelfwareError):
    """{what} {workspace} broke off: {reason}."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 75  # EX_TEMPFAIL
    hint = "Nothing of it counts. Try again."


@dataclass(frozen=True)
class Named:
    """How many entries something happened to, and the first few, printable."""

    count: int
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Tree:
    """A workspace that was captured."""

    workspace: str
    stream_hash: str
    stream_bytes: int
    left_out: Named
    unread: Named
    changing: Named

    def note(self) -> str:
        """What of it was not saved as it is, or ''."""
        parts = [
            _told(self.left_out, "sockets or devices left out"),
            _told(self.unread, "not readable"),
            _told(self.changing, "changed while they were read"),
        ]
        said = ", ".join(part for part in parts if part)
        return f"{self.workspace}: {said}" if said else ""


class Keepers:
    """Starts them and asks them."""

    def __init__(self, tools: Tools, where: Paths) -> None:
        self._tools = tools
        self._where = where

    async def capture(self, workspace: str, spool: Spool, content_bytes: int) -> Tree:
        """Append the tree to the spool. KeeperGoneError, DiskFullError, TreeCaptureError, TreeTooLargeError."""
        message = {
            "tree": "capture",
            "content_bytes": content_bytes,
            "entries": MOST_ENTRIES,
            "reserve_bytes": RESERVE_BYTES,
            "spool": str(spool.place),
        }
        told = await self._ask("Saving workspace", workspace, message, spool.file.fileno())
        named = {
            name: Named(told[name]["count"], tuple(told[name]["shown"])) for name in ("left_out", "unread", "changing")
        }
        return Tree(workspace, told["stream_hash"], told["stream_bytes"], **named)

    async def restore(
        self, directory: str, spool: Spool, section: Section, stream_hash: str, *, dry_run: bool
    ) -> dict[str, Any]:
        """Make the directory equal to the tree in that section, or only look: {"created", "changed", "deleted"}, each
        {"count", "paths": the first}. Verified to the last byte before the first change. May be repeated."""
        message = {
            "tree": "restore",
            "offset": section.offset,
            "length": section.length,
            "stream_hash": stream_hash,
            "dry_run": dry_run,
        }
        file = spool.reading()
        try:
            what = "Looking at" if dry_run else "Restoring"
            return await self._ask(f"{what} workspace", directory, message, file)
        finally:
            os.close(file)

    async def _ask(self, what: str, workspace: str, message: dict[str, Any], file: int) -> dict[str, Any]:
        forbidden = forbidden_places(self._where, workspace)
        data = json.dumps({**message, "workspace": workspace, "forbidden": forbidden}).encode("ascii")
        connection, process = self._start(what, workspace)
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                told = await _exchange(connection, HEADER.pack(len(data)) + data, file)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            reason = "it was killed, or failed: the journal says more" if isinstance(error, EOFError) else str(error)
            reason = f"no answer in {LONGEST_SECONDS:g} s" if isinstance(error, TimeoutError) else reason
            raise KeeperGoneError(what=what, workspace=workspace, reason=reason) from error
        finally:
            connection.close()
            if process is not None:
                process.kill()
                await asyncio.shield(asyncio.to_thread(process.wait))
            self._tools.get_ready()
        if "error" in told:
            raise _ERRORS[told["error"]](**told["fields"])
        return told

    def _start(self, what: str, workspace: str) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
        try:
            if (connection := self._tools.keeper()) is not None:
                connection.setblocking(False)
                return connection, None
            ours, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen(
                    _argv(), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, cwd="/", env={"LANG": "C.UTF-8"},
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise KeeperGoneError(what=what, workspace=workspace, reason=error.strerror or str(error)) from error
        ours.setblocking(False)
        return ours, process


def _argv() -> list[str]:
    """With our own path for modules, wherever that came from."""
    path = [place for place in sys.path if Path(place).is_absolute()]
    code = f"import sys; sys.path[:] = {path!r}; from selfware_tool.keeper import main; main()"
    return [sys.executable, "-I", "-c", code]


async def _exchange(connection: socket.socket, data: bytes, file: int) -> dict[str, Any]:
    """EOFError if the other side ends without an answer."""
    loop = asyncio.get_running_loop()
    sent = socket.send_fds(connection, [data], [file])
    await loop.sock_sendall(connection, data[sent:])
    (length,) = HEADER.unpack(await _read(connection, HEADER.size))
    told = json.loads(await _read(connection, length))
    assert isinstance(told, dict)
    return told


async def _read(connection: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < size:
        part = await loop.sock_recv(connection, size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _told(found: Named, what: str) -> str:
    if not found.count:
        return ""
    more = ", ..." if found.count > len(found.shown) else ""
    return f"{found.count} {what} ({', '.join(found.shown)}{more})"
