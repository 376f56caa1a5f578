"""Serves the bulk socket (selfware_common/state/wire.py), where states come in and go out.

A thread per connection: they are few, a save is mostly work that needs no event loop, and the loop stays free for the
journal. The rules are the store's and the memory's; here bytes are moved and errors put into words.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfware_checkpointd.early import Early
from selfware_checkpointd.errors import UnknownBaseError, UnusableStateError, UnusableTargetError, disk_error
from selfware_checkpointd.manifest import CheckpointInfo, Level, checkpoint_id
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.spool import Spool
from selfware_checkpointd.store import Subject
from selfware_common import sockets
from selfware_common.errors import SelfwareError
from selfware_common.state import wire
from selfware_common.state.chunking import MAX_BYTES
from selfware_common.state.comparing import Span

LOG = logging.getLogger("selfware-checkpointd")
IN_MEMORY_BYTES = 8 * 1024 * 1024  # of a change that comes in; more goes through a file
KEPT_BYTES = 2 * 1024 * 1024  # of memory, between two calls, for each client
PIECE_BYTES = 1024 * 1024
GRACE_SECONDS = 2.0
RETRY_SECONDS = 0.5
STATES = frozenset({"early", "save", "put", "get"})
PEOPLE = frozenset({"tag", "untag"})
"""Calls of a socket that only operators may open: the agent's user must not be able to let a checkpoint go that a
person wanted to keep."""
MOST_CONNECTIONS = 32  # each may have a large state on the disk that is still coming in


Body = memoryview | Spool
"""In memory, or in a file."""


class BulkServer:
    """Owns the listening socket, its connections and their threads."""

    def __init__(
        self,
        path: Path,
        memory: Memory,
        spool: Path,
        max_state_bytes: int,
        saved: Callable[[], None],
        allowed: frozenset[str] = STATES,
    ) -> None:
        """``allowed``: the calls of this socket. ``spool``: a directory for large states while they come in. ``saved``
        is called after each save, in the thread of its connection."""
        self._path = path
        self._spool = spool
        self._memory = memory
        self._max_state_bytes = max_state_bytes
        self._saved = saved
        self._allowed = allowed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Bind (mode 0660) and serve; the instance lock must be held."""
        self._path.parent.mkdir(mode=0o750, exist_ok=True)
        sockets.clear_stale(self._path)
        before = os.umask(0o117)
        try:
            self._listener.bind(str(self._path))
        finally:
            os.umask(before)
        self._listener.listen()
        threading.Thread(target=self._accept, name="bulk", daemon=True).start()

    def stop(self) -> None:
        """Refuse new calls, and wait a moment for the answers to those in the middle. Blocking."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            threads = dict(self._connections)
        for connection in threads:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                time.sleep(RETRY_SECONDS)  # out of descriptors, say: that passes
                continue
            if len(self._connections) >= MOST_CONNECTIONS:
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="bulk-call", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        call = _Connection(connection, self._memory, self._spool, self._max_state_bytes, self._saved, self._allowed)
        try:
            while (received := wire.receive(connection)) is not None:
                head, file = received
                try:
                    call.answer(head, file)
                finally:
                    if file >= 0:
                        os.close(file)
        except (OSError, wire.BrokenOffError):
            pass  # the client is gone
        except ValueError as error:
            LOG.warning("a client of %s sent what is no message: %s", self._path.name, error)
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()


class _Connection:
    """One client, one call after the other."""

    def __init__(
        self,
        connection: socket.socket,
        memory: Memory,
        spool: Path,
        max_state_bytes: int,
        saved: Callable[[], None],
        allowed: frozenset[str],
    ) -> None:
        self._allowed = allowed
        self._spool = spool
        self._connection = connection
        self._memory = memory
        self._max_state_bytes = max_state_bytes
        self._saved = saved
        self._room = bytearray()
        self._early = Early(memory.store.ahead)

    def answer(self, head: dict[str, Any], file: int) -> None:
        """Read the body, do the call, send the answer; ValueError for a call that there is not."""
        if head.get("call") not in self._allowed:
            raise ValueError("a call that there is not")
        if head["call"] == "early":
            self._early.receive(self._connection, head)
            return
        calls = {"save": self._save, "put": self._put, "get": self._get, "tag": self._tag, "untag": self._untag}
        call = calls[head["call"]]
        try:
            if head["body"] > self._max_state_bytes:
                self._swallow(memoryview(bytearray(PIECE_BYTES)), head["body"])
                self._check_size(head["body"])
            with self._body(head["body"]) as body:
                told = call(head, body, file)
        except UnknownBaseError:
            told = {"unknown_base": True}
        except SelfwareError as error:
            told = {"error": str(error), "status": error.status.name}
        except (KeyError, TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"a {head['call']} that is incomplete: {error!r}") from error
        finally:
            self._early.forget()
        wire.send(self._connection, told)

    def _save(self, head: dict[str, Any], body: Body, _file: int) -> dict[str, Any]:
        lengths = [int(length) for length in head["lengths"]]
        if lengths and not 0 < min(lengths) <= max(lengths) <= MAX_BYTES:
            raise UnusableStateError(problem=f"a chunk has 1 to {MAX_BYTES} bytes")
        if sum(lengths) != head["body"]:
            raise UnusableStateError(problem=f"{head['body']} bytes came, and {sum(lengths)} were announced")
        spans = [Span(int(before), int(count)) for before, count in head["spans"]]
        early = self._early.take(int(head.get("early", 0)))
        root = bytes.fromhex(head["root"])
        info = self._memory.save_change(
            _subject(head),
            int(head["epoch"]),
            head["base"],
            spans,
            _Chunks(body, lengths),
            head["body"],
            root,
            early,
        )
        self._saved()
        return {"checkpoint": _told(info)}

    def _put(self, head: dict[str, Any], body: Body, file: int) -> dict[str, Any]:
        if file < 0:
            raise ValueError("a put without a file")
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableStateError(problem="what came is not a file")
        size = status.st_size
        self._check_size(size)
        read = lambda room, at: _read(file, room, at)  # noqa: E731
        info = self._memory.save_from(_subject(head), int(head["epoch"]), size, read)
        self._saved()
        return {"checkpoint": _told(info)}

    def _get(self, head: dict[str, Any], _body: Body, file: int) -> dict[str, Any]:
        if file < 0:
            raise ValueError("a get without a file to write to")
        if not stat.S_ISREG(os.fstat(file).st_mode) or fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND:
            raise UnusableTargetError
        wanted = str(head["checkpoint_id"])
        try:
            info = self._memory.store.restore(wanted, lambda at, piece: _write(file, at, piece))
            os.ftruncate(file, info.state_bytes)
        except OSError as error:
            raise disk_error(error, f"checkpoint {wanted}", Path("the file given")) from error
        return {"checkpoint": _told(info)}

    def _tag(self, head: dict[str, Any], _body: Body, _file: int) -> dict[str, Any]:
        return {"checkpoint": _told(self._memory.store.tag(str(head["checkpoint_id"]), str(head["name"])))}

    def _untag(self, head: dict[str, Any], _body: Body, _file: int) -> dict[str, Any]:
        return {"checkpoint_id": checkpoint_id(self._memory.store.untag(str(head["name"])))}

    def _check_size(self, size: int) -> None:
        if size > self._max_state_bytes:
            problem = f"a state of more than {self._max_state_bytes} bytes (resources.quotas.max_checkpoint_size)"
            raise UnusableStateError(problem=problem)

    @contextmanager
    def _body(self, size: int) -> Iterator[Body]:
        """What came with the head: in memory that is kept for the next one, or, if it is large, in a file of no name.
        All of it is here before anything is saved: a client that stops in the middle holds nobody up."""
        if size <= IN_MEMORY_BYTES:
            if len(self._room) < size:
                self._room = bytearray(size + size // 8)
            with memoryview(self._room)[:size] as body:
                wire.receive_into(self._connection, body)
                yield body
            if len(self._room) > KEPT_BYTES:
                self._room = bytearray()
            return
        with self._memory.bounds.room.claim(size, is_written=True), self._spooling(size) as spooled:
            room = memoryview(bytearray(PIECE_BYTES))
            while size:
                piece = room[: min(size, PIECE_BYTES)]
                wire.receive_into(self._connection, piece)
                try:
                    spooled.write(piece)
                except OSError as error:
                    self._swallow(room, size - len(piece))
                    raise disk_error(error, "a state that comes in", self._spool) from error
                size -= len(piece)
            yield spooled

    def _spooling(self, size: int) -> Spool:
        try:
            return Spool(self._spool, self._memory.vault.key_id is not None)
        except OSError as error:
            self._swallow(memoryview(bytearray(PIECE_BYTES)), size)
            raise disk_error(error, "a state that comes in", self._spool) from error

    def _swallow(self, room: memoryview, size: int) -> None:
        """Let the client say all of it, so that it hears the answer."""
        while size:
            piece = room[: min(size, len(room))]
            wire.receive_into(self._connection, piece)
            size -= len(piece)


class _Chunks:
    """The chunks in a body, in order, as often as somebody asks."""

    def __init__(self, body: Body, lengths: list[int]) -> None:
        self._body, self._lengths = body, lengths

    def __iter__(self) -> Iterator[memoryview]:
        if isinstance(self._body, Spool):
            yield from self._body.pieces(self._lengths)
            return
        at = 0
        for length in self._lengths:
            yield self._body[at : at + length]
            at += length


def _subject(head: dict[str, Any]) -> Subject:
    return Subject(str(head["session_id"]), _level(head["level"]), int(head["sequence"]), str(head["label"]), 0)


def _level(number: object) -> Level:
    if number not in set(Level):
        raise UnusableStateError(problem="a save must name a level")
    return Level(int(str(number)))


def _told(info: CheckpointInfo) -> dict[str, Any]:
    return {
        "checkpoint_id": info.checkpoint_id,
        "session_id": info.session_id,
        "level": int(info.level),
        "sequence": info.sequence,
        "created_unix_nanos": info.created_unix_nanos,
        "state_bytes": info.state_bytes,
        "stored_bytes": info.stored_bytes,
        "state_hash": info.state_hash.hex(),
        "label": info.label,
    }


def _read(file: int, room: memoryview, at: int) -> int:
    try:
        return os.preadv(file, [room], at)
    except OSError as error:
        raise UnusableStateError(problem=f"its file cannot be read: {error.strerror}") from error


def _write(file: int, at: int, piece: memoryview) -> None:
    while piece:
        size = os.pwrite(file, piece, at)
        piece = piece[size:]
        at += size
