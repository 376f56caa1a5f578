"""Keeps the beginning and the end of what an action prints, whatever it prints, and counts the rest.

Bytes are kept raw: terminal escapes in them are the reader's business, and nothing here prints them. The beginning
goes to the file as it comes, so it can be followed; the end is held in memory until the action is over.
"""

from __future__ import annotations

import os

HEAD_SHARE = 0.5


class BoundedOutput:
    """Owns the file descriptor it is given; writes at most ``limit_bytes`` plus one line to it."""

    def __init__(self, fd: int, limit_bytes: int) -> None:
        self._fd = fd
        self._head_room = int(limit_bytes * HEAD_SHARE)
        self._tail_room = limit_bytes - self._head_room
        self._tail = bytearray()
        self.total_bytes = 0
        self.kept_bytes = 0

    @property
    def dropped_bytes(self) -> int:
        """How many bytes were printed but not kept; final after close."""
        return self.total_bytes - self.kept_bytes

    def add(self, data: bytes) -> None:
        """Take what was just printed."""
        self.total_bytes += len(data)
        head, rest = data[: self._head_room], data[self._head_room :]
        if head:
            self._head_room -= len(head)
            self.kept_bytes += self._write(head)
        if rest:
            self._tail += rest[-self._tail_room :] if self._tail_room else b""
            if len(self._tail) > 2 * self._tail_room:
                del self._tail[: -self._tail_room]

    def close(self) -> None:
        """Write the end, with a line saying how much is missing before it."""
        if self._tail_room:
            del self._tail[: -self._tail_room]
        missing = self.total_bytes - self.kept_bytes - len(self._tail)
        if missing:
            self._write(f"\n[... {missing} bytes left out ...]\n".encode())
        self.kept_bytes += self._write(bytes(self._tail))
        os.close(self._fd)

    def _write(self, data: bytes) -> int:
        """How many bytes reached the file; a full disk costs output, not the action."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            self._head_room = 0
        return written
