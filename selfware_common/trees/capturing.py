"""Writes a directory as a stream, whatever is in it and whatever happens to it meanwhile.

The idea: walk in the order of the stream, give out each file's bytes as they are read, keep what is known about each
entry, and give that out at the end; so an entry always tells the truth about the bytes before it. A file of up to
BUFFERED_BYTES that changes while it is read is read again; a larger one is written as it was read, and named.

Not for a file system that lies about its times; never writes to the tree; never opens what is no file or directory.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from selfware_common.trees.descent import Descent, names_in, open_root
from selfware_common.trees.errors import TreeCaptureError, TreeTooLargeError, printable
from selfware_common.trees.index import Known, TreeIndex, stamp
from selfware_common.trees.stream import HEADER, LINK_MODE, BlockWriter, Entry, Kind
from selfware_common.trees.summary import Limits, Named, Summary

BUFFERED_BYTES = 8 << 20
ATTEMPTS = 3
_PIECE_BYTES = 1 << 20
_LONGEST_DIRECTORY = 65_000  # so that the path of no child is longer than the format allows
_SWAPPED = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ENXIO}
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class TreeOutput(Protocol):
    """Takes a stream in order: bytes, or a range of the previous stream that holds the same bytes."""

    def data(self, data: bytes) -> None:
        """The next bytes."""

    def same(self, path: bytes, offset_bytes: int, length_bytes: int) -> None:
        """The next length_bytes are those at offset_bytes of the previous stream: the content of the file at path."""


def write_tree(root: Path, write: Callable[[bytes], object], limits: Limits = Limits()) -> Summary:  # noqa: B008
    """Give the whole stream to write, piece by piece. TreeCaptureError, TreeTooLargeError; what write raises."""
    return _Capture(root, _Plain(write), TreeIndex(), limits).run()


def write_tree_again(root: Path, output: TreeOutput, previous: TreeIndex, limits: Limits = Limits()) -> Summary:  # noqa: B008
    """The same, but refer to the stream with the hash previous.stream_hash for each file that did not change since."""
    return _Capture(root, output, previous, limits).run()


class _OutputError(Exception):
    """What the receiver raised, so that it is not taken for an error of the tree."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


class _Plain:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def data(self, data: bytes) -> None:
        self._write(data)

    def same(self, path: bytes, offset_bytes: int, length_bytes: int) -> None:
        raise AssertionError("an empty index knows no file")


class _Capture:
    """One walk over one tree."""

    def __init__(self, root: Path, output: TreeOutput, previous: TreeIndex, limits: Limits) -> None:
        self._root, self._output, self._previous, self._limits = root, output, previous, limits
        self._blocks = BlockWriter()
        self._index = TreeIndex()
        self._tree_hash = blake3()
        self._counts = dict.fromkeys(Kind, 0)
        self._content_bytes = self._reused_files = self._reused_bytes = 0
        self._left_out, self._unread, self._changing = Named(), Named(), Named()
        self._waiting: list[list[bytes]] = []  # of each directory on the way here, the names to come
        self._path = b""  # of the directory we are in

    def run(self) -> Summary:
        try:
            with Descent(open_root(self._root)) as self._descent:
                self._give(HEADER)
                self._device = os.fstat(self._descent.fd).st_dev
                self._begin_directory(b"")
                self._walk()
        except _OutputError as error:
            raise error.cause from None
        except OSError as error:
            raise TreeCaptureError(root=self._root, reason=error.strerror or str(error)) from error
        end, stream_hash = self._blocks.finish(self._content_bytes)
        self._output.data(end)
        self._index.stream_hash = stream_hash
        return Summary(
            directories=self._counts[Kind.DIRECTORY],
            files=self._counts[Kind.FILE],
            links=self._counts[Kind.LINK],
            pipes=self._counts[Kind.PIPE],
            content_bytes=self._content_bytes,
            stream_bytes=len(HEADER) + self._content_bytes + len(end),
            reused_files=self._reused_files,
            reused_bytes=self._reused_bytes,
            left_out=self._left_out,
            unread=self._unread,
            changing=self._changing,
            stream_hash=stream_hash,
            tree_hash=self._tree_hash.digest(),
            index=self._index,
        )

    def _walk(self) -> None:
        while self._waiting:
            if self._waiting[-1]:
                self._visit(self._waiting[-1].pop())
                continue
            self._waiting.pop()
            if self._waiting:
                self._descent.leave()
                self._path = self._path[: max(0, self._path.rfind(b"/"))]

    def _visit(self, name: bytes) -> None:
        """Write down what has this name now; begin again when it becomes something else in between."""
        path = self._path + b"/" + name if self._path else name
        for _ in range(ATTEMPTS):
            try:
                self._record(name, path, os.stat(name, dir_fd=self._descent.fd, follow_symlinks=False))
                return
            except FileNotFoundError:
                return
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno not in _SWAPPED:
                    break
        self._record_unread(path, reason)

    def _record(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            self._record_directory(name, path, status)
        elif kind == stat.S_IFREG:
            self._record_file(name, path, status)
        elif kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=self._descent.fd)
            self._add(Entry(path, Kind.LINK, LINK_MODE, status.st_mtime_ns, target))
        elif kind == stat.S_IFIFO:
            self._add(Entry(path, Kind.PIPE, stat.S_IMODE(status.st_mode), status.st_mtime_ns))
        else:
            self._left_out.add(path)

    def _record_directory(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        if status.st_dev != self._device:
            self._record_unread(path, "another file system")
        elif len(path) > _LONGEST_DIRECTORY:
            self._record_unread(path[-100:], "too deep", whole=path)
        else:
            self._descent.enter(name)
            try:
                self._begin_directory(path)
            except OSError:
                self._descent.leave()
                raise

    def _begin_directory(self, path: bytes) -> None:
        status = os.fstat(self._descent.fd)
        names = names_in(self._descent.fd)
        self._add(Entry(path, Kind.DIRECTORY, stat.S_IMODE(status.st_mode), status.st_mtime_ns))
        self._waiting.append(names)
        self._path = path

    def _record_file(self, name: bytes, path: bytes, status: os.stat_result) -> None:
        known = self._previous.find(path, status)
        if known is not None:
            self._reuse(path, status, known)
            return
        read_at = time.time_ns()
        fd = os.open(name, _OPEN_FILE, dir_fd=self._descent.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it keeps becoming something else")
            self._check_room(path, status.st_size)
            if status.st_size <= BUFFERED_BYTES:
                status, length, digest = self._read_whole(fd, path, status)
            else:
                length, digest = self._read_in_pieces(fd, path, status)
        finally:
            os.close(fd)
        if length == status.st_size:
            offset = len(HEADER) + self._content_bytes
            self._index.add(path, Known(stamp(status), offset, digest), read_at)
        self._add_file(path, status, length, digest)

    def _reuse(self, path: bytes, status: os.stat_result, known: Known) -> None:
        self._check_room(path, status.st_size)
        if status.st_size:
            self._refer(path, known.offset_bytes, status.st_size)
        self._reused_files += 1
        self._reused_bytes += status.st_size
        offset = len(HEADER) + self._content_bytes
        self._index.add(path, Known(known.stamp, offset, known.content_hash), time.time_ns())
        self._add_file(path, status, status.st_size, known.content_hash)

    def _read_whole(self, fd: int, path: bytes, status: os.stat_result) -> tuple[os.stat_result, int, bytes]:
        """Give out a moment's content if there was such a moment in a few attempts, else the last reading."""
        for _ in range(ATTEMPTS):
            data = _read(fd, min(status.st_size, BUFFERED_BYTES))
            before, status = status, os.fstat(fd)
            if stamp(before) == stamp(status) and len(data) == status.st_size:
                break
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            self._changing.add(path)
        self._check_room(path, len(data))
        if data:
            self._give(data)
        return status, len(data), blake3(data).digest()

    def _read_in_pieces(self, fd: int, path: bytes, status: os.stat_result) -> tuple[int, bytes]:
        digest, length = blake3(), 0
        while length < status.st_size:
            try:
                piece = os.read(fd, min(_PIECE_BYTES, status.st_size - length))
            except OSError as error:
                if not length:
                    raise
                reason = f"{printable(path)} cannot be read to its end: {error.strerror}"
                raise TreeCaptureError(root=self._root, reason=reason) from error
            if not piece:
                break
            digest.update(piece)
            self._give(piece)
            length += len(piece)
        if stamp(os.fstat(fd)) != stamp(status) or length != status.st_size:
            self._changing.add(path)
        return length, digest.digest()

    def _give(self, data: bytes) -> None:
        try:
            self._output.data(data)
        except OSError as error:
            raise _OutputError(error) from error

    def _refer(self, path: bytes, offset: int, length: int) -> None:
        try:
            self._output.same(path, offset, length)
        except OSError as error:
            raise _OutputError(error) from error

    def _check_room(self, path: bytes, more: int) -> None:
        if self._content_bytes + more > self._limits.content_bytes:
            self._refuse(path, self._limits.content_bytes, "bytes")

    def _add_file(self, path: bytes, status: os.stat_result, length: int, digest: bytes) -> None:
        self._content_bytes += length
        self._add(Entry(path, Kind.FILE, stat.S_IMODE(status.st_mode), status.st_mtime_ns, b"", length, digest))

    def _record_unread(self, path: bytes, reason: str, whole: bytes = b"") -> None:
        self._unread.add(path, reason)
        self._add(Entry(whole or path, Kind.UNREAD, 0, 0))

    def _add(self, entry: Entry) -> None:
        if self._blocks.entries >= self._limits.entries:
            self._refuse(entry.path, self._limits.entries, "entries")
        self._blocks.add(entry)
        self._tree_hash.update(entry.canonical())
        self._counts[entry.kind] += 1

    def _refuse(self, path: bytes, limit: int, unit: str) -> None:
        raise TreeTooLargeError(root=self._root, path=printable(path[-200:]), limit=limit, unit=unit)


def _read(fd: int, length: int) -> bytes:
    pieces = []
    while length and (piece := os.read(fd, length)):
        pieces.append(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
