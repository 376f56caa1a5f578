"""A layer under the product's file calls: it counts them, writes them down, and lets any one of them fail.

It replaces the functions of ``os`` through which Python changes files, before the product is imported (defaults such
as ``sync=os.fdatasync`` are bound at import), so the product stays as it is. ``open()`` for writing goes to Python's
own implementation in Python, which ends in the same functions. Three things show that none slips through:

- an audit hook hears every open for writing, rename, removal, mkdir, link and truncation that the interpreter does,
  and complains of each that did not come from this layer;
- after every run the files as the record says they are (``page_cache``) are compared with those on the disk, so a
  write that nobody wrote down (say through a mapping) shows as a difference;
- a sync that nobody wrote down makes the record more pessimistic than the disk: it shows as something lost.

Besides, one workload was run without the layer under strace: the same numbers of creations, writes, syncs of files and
directories, renames, removals and mkdirs as the layer counts.

What this layer does not model (a rename into another directory, a directory descriptor) it refuses aloud. Owns no
file. For one watched directory and one run at a time.
"""

from __future__ import annotations

import _pyio
import builtins
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CHANGING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HEARD = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
REAL = {name: getattr(os, name) for name in dir(os) if callable(getattr(os, name))}


class Op(NamedTuple):
    """One thing that was done to a file, with paths as seen from the watched directory."""

    kind: str
    path: str = ""
    other: str = ""
    handle: int = 0
    offset: int = 0
    data: bytes = b""


class Mark(NamedTuple):
    """What the workload said at this place of the record: it begins a step, or a step was acknowledged."""

    kind: str
    step: int
    value: Any = None


class NotModelledError(Exception):
    """The product does something to files that this layer cannot judge: teach it first."""


Fault = Callable[[int, str], int | None]  # number of the point and its kind -> errno


class FaultyFiles:
    """The installed layer."""

    def __init__(self) -> None:
        self.root = ""
        self.trace: list[Op | Mark] = []
        self.kinds: list[str] = []
        self.slipped: list[str] = []
        self.fault: Fault | None = None
        self.short_write = False  # a failing write first takes half of the bytes, as a full disk does
        self._handles: dict[int, int] = {}
        self._next_handle = 1
        self._lock = threading.RLock()
        self._inside = threading.local()

    def watch(self, root: Path | None) -> None:
        """Count, record and disturb below this directory from now on; None: let everything pass."""
        with self._lock:
            self.root = str(root) if root else ""
            self.trace, self.kinds, self.fault = [], [], None
            self._handles.clear()

    def mark(self, kind: str, step: int, value: Any = None) -> None:
        """Let the workload speak into the record."""
        with self._lock:
            self.trace.append(Mark(kind, step, value))

    def install(self) -> None:
        """Once in a process, before the product is imported."""
        assert "selfware_checkpointd" not in sys.modules, "install the layer before the product is imported"
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._two_names(name))
        for name in ("unlink", "remove", "mkdir", "rmdir"):
            setattr(os, name, self._one_name(name))
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._sync(name))
        for name in ("symlink", "copy_file_range", "sendfile", "splice"):
            setattr(os, name, self._refused(name))
        os.open, os.close = self._open, self._close  # type: ignore[assignment]
        os.write, os.pwrite = self._write, self._pwrite
        os.pread, os.preadv = self._read_as("pread"), self._read_as("preadv")
        os.writev, os.pwritev = self._writev, self._pwritev
        os.ftruncate, os.truncate, os.posix_fallocate = self._ftruncate, self._truncate, self._fallocate
        real_open = io.open

        def opened(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            below = None if isinstance(file, int) else self._below(file)
            changes = below is not None and set(mode) & set("wax+")
            if below is not None and not changes:
                self._point("read", file)
            return (_pyio.open if changes else real_open)(file, mode, *more, **named)

        io.open = builtins.open = opened  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    # ---- what replaces the functions of os

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below = None if dir_fd is not None and self._refuse_if_watching("open(dir_fd)") else self._below(path)
        if below is None:
            return int(self._really("open", path, flags, mode, dir_fd=dir_fd))
        with self._lock:
            is_new = not os.path.lexists(path)
            kind = "open" if flags & (CHANGING_FLAGS | os.O_DIRECTORY) else "read"
            self._point("create" if is_new and flags & os.O_CREAT else kind, path)
            file = int(self._really("open", path, flags, mode))
            handle = self._handles[file] = self._next_handle
            self._next_handle += 1
            self.trace.append(Op("create" if is_new else "open", below, handle=handle))
            if flags & os.O_TRUNC and not is_new:
                self.trace.append(Op("truncate", handle=handle))
            return file

    def _close(self, file: int) -> None:
        with self._lock:
            self._handles.pop(file, None)
            self._really("close", file)

    def _read_as(self, name: str) -> Callable[..., Any]:
        def read(file: int, *more: Any) -> Any:
            if file in self._handles:
                self._point("read", "")
            return self._really(name, file, *more)

        return read

    def _write(self, file: int, data: Any) -> int:
        return self._written(file, [data], lambda pieces: self._really("write", file, pieces[0]), None)

    def _pwrite(self, file: int, data: Any, offset: int) -> int:
        return self._written(file, [data], lambda pieces: self._really("pwrite", file, pieces[0], offset), offset)

    def _writev(self, file: int, pieces: Any) -> int:
        return self._written(file, pieces, lambda some: self._really("writev", file, some), None)

    def _pwritev(self, file: int, pieces: Any, offset: int, flags: int = 0) -> int:
        return self._written(file, pieces, lambda some: self._really("pwritev", file, some, offset, flags), offset)

    def _written(self, file: int, pieces: Any, call: Callable[[Any], int], offset: int | None) -> int:
        handle = self._handles.get(file)
        if handle is None:
            return call(pieces)
        with self._lock:
            data = b"".join(bytes(piece) for piece in pieces)
            try:
                self._point("write", "")
            except OSError:
                if not self.short_write or len(data) < 2:
                    raise
                data = data[: len(data) // 2]  # the caller tries the rest and meets the error then, if it still holds
                pieces = [data]
            count = call(pieces)
            start = os.lseek(file, 0, os.SEEK_CUR) - count if offset is None else offset
            self.trace.append(Op("write", handle=handle, offset=start, data=data[:count]))
            return count

    def _sync(self, name: str) -> Callable[[int], None]:
        def sync(file: int) -> None:
            handle = self._handles.get(file if isinstance(file, int) else file.fileno())
            if handle is None:
                self._really(name, file)
                return
            with self._lock:
                try:
                    self._point("sync", "")
                except OSError:
                    self.trace.append(Op("sync failed", handle=handle))
                    raise
                self.trace.append(Op("sync", handle=handle))  # memory needs no sync: the record is what counts

        return sync

    def _ftruncate(self, file: int, length: int) -> None:
        handle = self._handles.get(file)
        with self._lock:
            if handle is not None:
                self._point("truncate", "")
            self._really("ftruncate", file, length)
            if handle is not None:
                self.trace.append(Op("truncate", handle=handle, offset=length))

    def _fallocate(self, file: int, offset: int, length: int) -> None:
        """As if zeros had been written behind the end."""
        handle = self._handles.get(file)
        with self._lock:
            if handle is not None:
                self._point("write", "")
            begin = max(offset, os.fstat(file).st_size)
            self._really("posix_fallocate", file, offset, length)
            if handle is not None:
                self.trace.append(Op("write", handle=handle, offset=begin, data=bytes(offset + length - begin)))

    def _truncate(self, path: Any, length: int) -> None:
        if isinstance(path, int):
            return self._ftruncate(path, length)
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return self._ftruncate(file, length)
        finally:
            os.close(file)

    def _one_name(self, name: str) -> Callable[..., None]:
        kind = {"remove": "unlink"}.get(name, name)

        def call(path: Any, *more: Any, dir_fd: int | None = None) -> None:
            below = None if dir_fd is not None and self._refuse_if_watching(name) else self._below(path)
            with self._lock:
                if below is not None:
                    self._point(kind, path)
                self._really(name, path, *more, dir_fd=dir_fd)
                if below is not None:
                    self.trace.append(Op(kind, below))

        return call

    def _two_names(self, name: str) -> Callable[..., None]:
        kind = {"replace": "rename"}.get(name, name)

        def call(source: Any, target: Any, **named: Any) -> None:
            if any(value is not None and value is not True for value in named.values()):
                self._refuse_if_watching(name)
            first, second = self._below(source), self._below(target)
            with self._lock:
                if first is not None:
                    if second is None or os.path.dirname(first) != os.path.dirname(second):
                        raise NotModelledError(f"{name} {source} {target}: into another directory")
                    self._point(kind, source)
                self._really(name, source, target, **named)
                if first is not None:
                    self.trace.append(Op(kind, first, second or ""))

        return call

    def _refused(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self._refuse_if_watching(name)
            return REAL[name](*given, **named)

        return call

    # ---- helpers

    def _refuse_if_watching(self, what: str) -> bool:
        if self.root:
            raise NotModelledError(what)
        return False

    def _below(self, path: Any) -> str | None:
        """The path as seen from the watched directory, or None if it is none of our business."""
        if not self.root or isinstance(path, int):
            return None
        full = os.path.abspath(os.fsdecode(os.fspath(path)))
        if full == self.root:
            return "."
        return full[len(self.root) + 1 :] if full.startswith(self.root + "/") else None

    def _point(self, kind: str, path: Any) -> None:
        with self._lock:
            number = len(self.kinds)
            self.kinds.append(kind)
        code = self.fault(number, kind) if self.fault is not None else None
        if code is not None:
            raise OSError(code, os.strerror(code), str(path) or None)

    def _really(self, name: str, *given: Any, **named: Any) -> Any:
        self._inside.yes = True
        try:
            return REAL[name](*given, **named)
        finally:
            self._inside.yes = False

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.root or getattr(self._inside, "yes", False):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & CHANGING_FLAGS):
            return
        if (event == "open" or event in HEARD) and self._below(given[0]) is not None:
            self.slipped.append(f"{event} {given[0]}")
