"""Who may write a session: one writer at a time, told apart by an epoch that only grows.

Opening a session durably adds one to its epoch; everything an older epoch still tries to write is refused. The
record lies in ``<session>/writer``, two equal copies of 512 bytes so that one flipped byte does not lock anyone out:

      0   8  magic            53 46 57 57 52 49 54 0a ("SFWWRIT\\n")
      8   2  version          1
     10   2  writer id length
     12   8  epoch
     20   8  created          nanoseconds since 1970
     28      writer id (UTF-8, cut at 256 bytes), zeros up to byte 507; it ends with " (stopped)" once its writer has
             stopped as it should
    508   4  CRC-32           of bytes 0..507

Numbers are little-endian. Owns the directories below ``sessions/`` and that file. Never reads the journal.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from selfware_checkpointd.errors import (
    InvalidSessionIdError,
    SessionCorruptError,
    SessionNotFoundError,
    StaleWriterError,
    StorageError,
    disk_error,
)
from selfware_checkpointd.files import make_directory, remove_leftovers, write_durably

MAGIC = b"SFWWRIT\n"
VERSION = 1
COPY_BYTES = 512
MAX_WRITER_BYTES = 256
CLOSED = " (stopped)"
"""What a writer's id ends with after it has stopped as it should."""
_HEAD = struct.Struct("<8sHHQQ")
_CHECKSUM = struct.Struct("<I")
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Session:
    """A session and its present writer."""

    session_id: str
    epoch: int
    created_unix_nanos: int
    writer_id: str

    @property
    def is_closed(self) -> bool:
        """Did its writer stop as it should?"""
        return self.writer_id.endswith(CLOSED)


def valid_session_id(session_id: str) -> str:
    """The id itself, once it is certain that it is a plain file name."""
    if not _SESSION_ID.fullmatch(session_id):
        raise InvalidSessionIdError(session_id=session_id)
    return session_id


def encode_session(session: Session) -> bytes:
    """The whole file."""
    writer = session.writer_id.encode()[:MAX_WRITER_BYTES]
    head = _HEAD.pack(MAGIC, VERSION, len(writer), session.epoch, session.created_unix_nanos)
    copy = (head + writer).ljust(COPY_BYTES - _CHECKSUM.size, b"\0")
    return (copy + _CHECKSUM.pack(crc32(copy))) * 2


def decode_session(session_id: str, data: bytes) -> Session | None:
    """The first copy that matches its checksum, or None."""
    for start in (0, COPY_BYTES):
        copy = data[start : start + COPY_BYTES]
        if len(copy) < COPY_BYTES or _CHECKSUM.pack(crc32(copy[:-4])) != copy[-4:]:
            continue
        magic, version, length, epoch, created = _HEAD.unpack_from(copy)
        if magic == MAGIC and version == VERSION:
            writer = copy[_HEAD.size : _HEAD.size + length].decode(errors="replace")
            return Session(session_id, epoch, created, writer)
    return None


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


class Sessions:
    """All sessions below one directory."""

    def __init__(self, directory: Path) -> None:
        """Creates the directory if needed."""
        self._directory = directory
        self._known: dict[str, Session] = {}
        try:
            make_directory(directory)
        except OSError as error:
            raise disk_error(error, "sessions", directory) from error

    def open(self, session_id: str, writer_id: str, now_unix_nanos: int) -> Session:
        """Become the one writer; creates the session on first sight. Durable on return."""
        path = self._path(valid_session_id(session_id))
        try:
            make_directory(path.parent)
            remove_leftovers(path.parent)
            before = self._read(session_id) if path.exists() else Session(session_id, 0, now_unix_nanos, "")
            session = Session(session_id, before.epoch + 1, before.created_unix_nanos, writer_id)
            write_durably(path, [encode_session(session)])
        except OSError as error:
            raise disk_error(error, f"the writer of session {session_id}", path.parent) from error
        self._known[session_id] = session
        return session

    def close(self, session_id: str, epoch: int) -> None:
        """The present writer stops as it should. Durable on return."""
        self.check(session_id, epoch)
        known = self.get(session_id)
        if known.is_closed:
            return
        session = replace(known, writer_id=_cut(known.writer_id, MAX_WRITER_BYTES - len(CLOSED)) + CLOSED)
        path = self._path(session_id)
        try:
            write_durably(path, [encode_session(session)])
        except OSError as error:
            raise disk_error(error, f"the writer of session {session_id}", path.parent) from error
        self._known[session_id] = session

    def get(self, session_id: str) -> Session:
        """The session as it is now."""
        known = self._known.get(valid_session_id(session_id))
        if known is None:
            known = self._known[session_id] = self._read(session_id)
        return known

    def opened_unix_nanos(self, session_id: str) -> int:
        """When the present writer became it; 0 if that cannot be told."""
        try:
            return self._path(valid_session_id(session_id)).stat().st_mtime_ns
        except OSError:
            return 0

    def check(self, session_id: str, epoch: int) -> None:
        """Refuse a writer that is not the present one."""
        current = self.get(session_id).epoch
        if epoch != current:
            raise StaleWriterError(session_id=session_id, epoch=epoch, current=current)

    def all(self) -> list[str]:
        """Ids of every session, oldest name first; a damaged one is listed too."""
        return sorted(path.parent.name for path in self._directory.glob("*/writer"))

    def journal_directory(self, session_id: str) -> Path:
        """Where this session's events lie."""
        return self._path(valid_session_id(session_id)).parent / "journal"

    def _path(self, session_id: str) -> Path:
        return self._directory / session_id / "writer"

    def _read(self, session_id: str) -> Session:
        path = self._path(session_id)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise SessionNotFoundError(session_id=session_id) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(what=f"read the writer of session {session_id}", path=path, reason=reason) from error
        session = decode_session(session_id, data)
        if session is None:
            raise SessionCorruptError(session_id=session_id, path=path)
        return session
