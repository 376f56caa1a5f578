"""How much the store may still take: the limit, less all that lies below its root.

Packs, journals, the reserve and states that are coming in all count. Whoever is about to write much says so first
(``claim``); if that would lead above the limit, room is made before a byte is written. How much is enough is known only
roughly before a save, so the pack itself asks ``most_bytes`` as it grows: the limit is never passed, not even for a
moment. Owns no file; how room is made is told by its owner.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NO_LIMIT = 1 << 62
SHARE = 16  # of the limit is kept free by upkeep, so that a save seldom has to wait for room
LARGEST_SHARE = 8  # at most, when saves are large
MOST_FREE = 64 * 1024 * 1024
MOST_MARGIN = 8 * 1024 * 1024

Size = Callable[[], int]


class Room:
    """One limit for everything below one root. Thread-safe."""

    def __init__(self, limit_bytes: int = NO_LIMIT) -> None:
        self.limit_bytes = limit_bytes
        self.sizes: list[Size] = []  # of what lies there; each must be quick
        self.make: Callable[[int], object] | None = None  # frees until so many bytes are left, if it can
        self._claimed = self._written = 0
        self._largest = 0  # claim of late
        self._lock = threading.Lock()
        self.making = threading.Lock()

    @property
    def free_bytes(self) -> int:
        """What upkeep keeps free: enough for the largest save of late and those beside it."""
        usual = min(MOST_FREE, self.limit_bytes // SHARE)
        return max(usual, min(2 * self._largest + self.margin_bytes, self.limit_bytes // LARGEST_SHARE))

    @property
    def margin_bytes(self) -> int:
        """What saves leave for journals, which no limit holds up."""
        return min(MOST_MARGIN, self.limit_bytes // (4 * SHARE))

    def used_bytes(self) -> int:
        """What lies there now."""
        return self._written + sum(size() for size in self.sizes)

    def most_bytes(self) -> int:
        """What a file that is being written may take."""
        return self.limit_bytes - self.used_bytes()

    def left_bytes(self) -> int:
        """What nobody has claimed."""
        return self.most_bytes() - self._claimed

    @contextmanager
    def claim(self, size: int, is_written: bool = False) -> Iterator[None]:
        """About to write so much; makes room if there is none. is_written: into a file that no one else counts."""
        self.want(size + self.margin_bytes)
        with self._lock:
            self._largest = max(self._largest, size)
            self._add(size, is_written)
        try:
            yield
        finally:
            with self._lock:
                self._add(-size, is_written)

    def want(self, size: int) -> None:
        """Make room if less than this is left. It may be in vain: what must stay stays."""
        if self.make is None or self.left_bytes() >= size:
            return
        with self.making:
            if self.left_bytes() < size:
                self.make(size)

    def forget_a_little(self) -> None:
        """A minute has passed: the largest claim counts for less, half of it after three quarters of an hour."""
        self._largest -= self._largest // 64

    @contextmanager
    def borrowed(self, size: int) -> Iterator[bool]:
        """Room for a file beside the one that it replaces: whether there is any. Above the limit there is: it becomes
        less."""
        with self._lock:
            left = self.left_bytes()
            fits = left >= size or left < 0
            taken = size if fits else 0
            self._add(taken, True)
        try:
            yield fits
        finally:
            with self._lock:
                self._add(-taken, True)

    def _add(self, size: int, is_written: bool) -> None:
        if is_written:
            self._written += size
        else:
            self._claimed += size
