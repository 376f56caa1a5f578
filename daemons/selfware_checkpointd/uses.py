"""Which packs each living checkpoint needs. That never changes while it lives, so each manifest is read once; the lock
is held for one of them at a time, and saves go on in between.

Owns nothing on disk.
"""

from __future__ import annotations

import threading

from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.tiering import Used


class Uses:
    """Looks at one catalog."""

    def __init__(self, catalog: Catalog, lock: threading.RLock) -> None:
        self._catalog = catalog
        self._lock = lock
        self._packs_of: dict[int, frozenset[int]] = {}

    def all(self) -> tuple[list[Used], int]:
        """Every checkpoint that can be read, and the highest number of those that cannot: 0 if there is none. Such a
        one may need any chunk that is older than itself."""
        with self._lock:
            living = [number for number, pack in self._catalog.packs.items() if pack.is_live]
        self._packs_of = {number: self._packs_of[number] for number in living if number in self._packs_of}
        used, unreadable = list[Used](), 0
        for number in living:
            with self._lock:
                pack = self._catalog.packs.get(number)
                if pack is None or not pack.is_live:
                    continue
                try:
                    if number not in self._packs_of:
                        runs = self._catalog.runs_of(number)
                        self._packs_of[number] = frozenset(run.pack for run in runs) | {number}
                except ValueError:
                    unreadable = max(unreadable, number)
                    continue
                if pack.info is not None:
                    used.append(Used(pack.info, self._packs_of[number]))
        return used, unreadable
