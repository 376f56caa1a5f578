"""The client of checkpointd's bulk socket: saves a state by what changed in it, gets a state back.

    with Saver(socket_path, "session") as saver:
        saved = saver.save(epoch, level, sequence, state, "label")

Keeps the state that it saved last, to compare the next one with. One thread at a time. ``put_file`` and ``get_file``
are for programs that do one thing and end: they keep nothing, and import neither gRPC nor the chunker.
"""

from __future__ import annotations

import _socket
import os

from selfware_common.record import Any, NamedTuple
from selfware_common.state import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from selfware_common.state.comparing import Comparer
    from selfware_common.state.tail import Tail

CALL_SECONDS = 300.0
LEAST_EARLY_BYTES, MOST_EARLY_BYTES = 64 * 1024, 8 * 1024 * 1024


class SavingError(Exception):
    """checkpointd refused, or is not there; ``status`` is gRPC's name for the kind of error."""

    def __init__(self, sentence: str, status: str) -> None:
        super().__init__(sentence)
        self.status = status


class Checkpoint(NamedTuple):
    """What was saved; see CheckpointInfo in protos/checkpoint.proto."""

    checkpoint_id: str
    session_id: str
    level: int
    sequence: int
    created_unix_nanos: int
    state_bytes: int
    stored_bytes: int
    state_hash: str
    label: str


class Saver:
    """One session's states. Connects when it has to, and again after checkpointd was away."""

    def __init__(self, path: Path, session_id: str, timeout_seconds: float = CALL_SECONDS) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._session_id = session_id
        self._connection: wire.Connection | None = None
        self._comparer: Comparer | None = None
        self._base = ""

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def save(self, epoch: int, level: int, sequence: int, state: bytes | bytearray, label: str = "") -> Checkpoint:
        """Durable on return. The state is kept: do not change it. Raises SavingError; may be called again then."""
        comparer = self._comparer = self._comparer or _comparer()
        head = {
            "call": "save", "session_id": self._session_id, "epoch": epoch, "level": level, "sequence": sequence,
            "label": label,
        }  # fmt: skip
        for _ in range(2):
            answer = self._ask(_Change(comparer, {**head, "base": self._base}, state, self._send_early))
            if "unknown_base" not in answer:
                saved = Checkpoint(**answer["checkpoint"])
                self._base = saved.checkpoint_id
                comparer.release()
                return saved
            self._forget()
        raise SavingError("checkpointd asks for the whole state, and does not take it", "INTERNAL")

    def close(self) -> None:
        """Let go of the connection and of the state."""
        self._forget()
        self._disconnect()

    def _forget(self) -> None:
        self._base = ""
        if self._comparer is not None:
            self._comparer.forget()

    def _send_early(self, chunks: list[memoryview]) -> bool:
        """New chunks, before anything is said of the state; False if they were not sent."""
        try:
            if self._connection is None:
                self._connection = connect(self._path, self._timeout_seconds)
            wire.send(self._connection, {"call": "early", "lengths": [len(chunk) for chunk in chunks]}, chunks)
        except OSError:  # the save itself finds out what is wrong
            self._disconnect()
            return False
        return True

    def _ask(self, change: _Change) -> dict[str, Any]:
        """Once more if the connection turns out to be an old one: saving the same thing twice is saving it once."""
        is_old = self._connection is not None
        try:
            return self._exchange(*change.without_early())
        except SavingError as error:
            if not is_old or error.status != "UNAVAILABLE":
                self._forget()
                raise
        try:
            return self._exchange(*change.whole())
        except SavingError:
            self._forget()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, head: dict[str, Any], body: list[memoryview]) -> dict[str, Any]:
        try:
            if self._connection is None:
                self._connection = connect(self._path, self._timeout_seconds)
            wire.send(self._connection, head, body)
            return _answer(self._connection)[0]
        except (OSError, wire.BrokenOffError) as error:
            self._disconnect()
            raise _away(self._path, error) from error


class _Change:
    """What to send: a state as a change of the one before. From then on it is the one before."""

    def __init__(
        self,
        comparer: Comparer,
        head: dict[str, Any],
        state: bytes | bytearray,
        send_early: Callable[[list[memoryview]], bool],
    ) -> None:
        from selfware_common.state.comparing import places

        view = memoryview(state)
        early: list[Tail] = []

        def at_end(tail: Tail) -> None:
            ends = [n for first, count in places(tail.spans) for n in range(first, first + count)]
            chunks = [view[tail.cut.starts[n] : tail.cut.starts[n + 1]] for n in ends]
            if LEAST_EARLY_BYTES <= sum(map(len, chunks)) <= MOST_EARLY_BYTES and send_early(chunks):
                early.append(tail)

        cut, spans = comparer.cut(state, at_end)
        starts = cut.starts
        new = places(spans)
        self._lengths = [starts[n + 1] - starts[n] for first, count in new for n in range(first, first + count)]
        self._pieces = [view[starts[first] : starts[first + count]] for first, count in new]
        self._early = (0, 0)  # chunks, and the pieces that they are; the last ones
        if early and early[0].is_joined:
            counts = [count for _, count in places(early[0].spans)]
            self._early = (sum(counts), len(counts))
        spans_told = [[span.before, span.count] for span in spans]
        self._head = {**head, "root": cut.root().hex(), "spans": spans_told}

    def whole(self) -> tuple[dict[str, Any], list[memoryview]]:
        """Head and body, for a connection on which nothing was sent early."""
        return {**self._head, "lengths": self._lengths, "early": 0}, self._pieces

    def without_early(self) -> tuple[dict[str, Any], list[memoryview]]:
        """Head and body, but for what was sent early."""
        chunks, pieces = self._early
        rest = self._lengths[: len(self._lengths) - chunks]
        return {**self._head, "lengths": rest, "early": chunks}, self._pieces[: len(self._pieces) - pieces]


def put_file(
    path: Path | str, session_id: str, epoch: int, level: int, sequence: int, file: int, label: str = ""
) -> Checkpoint:
    """Save what the open file holds. Durable on return; raises SavingError."""
    head = {
        "call": "put", "session_id": session_id, "epoch": epoch, "level": level, "sequence": sequence, "label": label,
    }  # fmt: skip
    return Checkpoint(**_once(path, head, file)["checkpoint"])


def get_file(path: Path | str, checkpoint_id: str, file: int) -> Checkpoint:
    """Write a verified state into the open file, from its start; its end is cut off there. Raises SavingError."""
    return Checkpoint(**_once(path, {"call": "get", "checkpoint_id": checkpoint_id}, file)["checkpoint"])


def get(path: Path, checkpoint_id: str) -> tuple[Checkpoint, mmap.mmap | bytes]:
    """A verified state, in memory that checkpointd filled. Raises SavingError."""
    import mmap

    file = os.memfd_create("state", os.MFD_CLOEXEC)
    try:
        found = get_file(path, checkpoint_id, file)
        return found, mmap.mmap(file, found.state_bytes) if found.state_bytes else b""
    finally:
        os.close(file)


def connect(path: Path | str, timeout_seconds: float = CALL_SECONDS) -> wire.Connection:
    """A connection whose calls take at most so long; OSError if nobody listens."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _once(path: Path | str, head: dict[str, Any], file: int) -> dict[str, Any]:
    try:
        connection = connect(path)
        try:
            wire.send(connection, head, file=file)
            return _answer(connection)[0]
        finally:
            connection.close()
    except (OSError, wire.BrokenOffError) as error:
        raise _away(path, error) from error


def _answer(connection: wire.Connection) -> tuple[dict[str, Any], bytearray]:
    received = wire.receive(connection)
    if received is None:
        raise wire.BrokenOffError
    head, _ = received
    body = wire.receive_exactly(connection, head["body"])
    if "error" in head:
        raise SavingError(head["error"], head["status"])
    return head, body


def _away(path: Path | str, error: Exception) -> SavingError:
    reason = (error.strerror if isinstance(error, OSError) else "") or "it ended in the middle"
    return SavingError(f"Cannot reach checkpointd at {path}: {reason}.", "UNAVAILABLE")


def _comparer() -> Comparer:
    from selfware_common.state.chunking import Chunker
    from selfware_common.state.comparing import Comparer

    return Comparer(Chunker())
