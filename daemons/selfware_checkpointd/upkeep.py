"""Deletes checkpoints and packs the others tighter, while saves and reads go on.

A read may take as long as its reader likes, so it holds no lock: while there are any, no pack is moved, removed or
replaced, and what was to be done is done the next time. Every step is one atomic change of a name: whatever dies when,
the next round finishes it.

Owns no file that is being written. Shares the store's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.chunklist import Newest
from selfware_checkpointd.errors import disk_error
from selfware_checkpointd.files import Sync, sync_directory, write_aside
from selfware_checkpointd.manifest import CheckpointInfo, Run
from selfware_checkpointd.repacking import place, repack, used_chunks, worth_repacking

TIGHTEN_BYTES = 64 * 1024 * 1024  # a time: 2 % of one processor if that is once a minute


class Upkeep:
    """Works on one catalog. ``readers``: how many checkpoints are being read; changed with the lock held."""

    def __init__(
        self, catalog: Catalog, lock: threading.RLock, newest: Newest, sync: Sync, compression_level: int
    ) -> None:
        self._compression_level = compression_level
        self._catalog = catalog
        self.lock = self._lock = lock
        self._newest = newest
        self._sync = sync
        self.rewriting = threading.Lock()  # held by whoever writes packs anew, beside themselves
        self.readers = 0
        self.is_ending = False  # the daemon stops: begin no further pack

    def delete(self, doomed: Sequence[CheckpointInfo]) -> str:
        """Delete these, and every chunk that nobody needs any more; one sentence."""
        with self._lock:
            if self.readers:
                return "deleted nothing, because checkpoints are being read"
            try:
                if doomed:
                    self._catalog.retire([info.number for info in doomed])
                    for info in doomed:
                        self._newest.forget(info.number)
                freed = self._catalog.sweep()
            except OSError as error:
                raise disk_error(error, "the checkpoint directory", self._catalog.directory) from error
            return f"deleted {len(doomed)} checkpoints, freed {freed} bytes"

    def tighten(self, most_bytes: int) -> str:
        """Write packs anew that become smaller, oldest first, until about so many bytes were read."""
        with self.rewriting:
            return self._tighten_some(most_bytes)

    def _tighten_some(self, most_bytes: int) -> str:
        with self._lock:
            used = used_chunks(self._catalog.all_runs())
            numbers = list(worth_repacking(self._catalog.packs, used))
        read = freed = count = 0
        for number in numbers:
            if read >= most_bytes or self.is_ending:
                break
            try:
                done = self._tighten(number, used.get(number, ()))
            except OSError as error:
                raise disk_error(error, "a checkpoint anew", self._catalog.directory) from error
            if done is not None:
                read, freed, count = read + done[0], freed + done[1], count + 1
        return f"packed {count} checkpoints tighter, freed {freed} bytes" if count else ""

    def _tighten(self, number: int, used: Iterable[Run]) -> tuple[int, int] | None:
        """(bytes read, bytes freed); None if it has to wait, or is damaged. The lock is not held while it works."""
        with self._lock:
            pack = self._catalog.packs.get(number)
            if pack is None or pack.problem or not pack.is_here:
                return None
            self.readers += 1
        try:
            repacked = repack(pack, number, used, self._compression_level)
            if repacked is None:
                return None
            temporary, size = write_aside(pack.path, repacked.pieces, self._sync)
            with self._lock:
                is_ours = self.readers == 1 and self._catalog.packs.get(number) is pack
                if not is_ours or not repacked.holds(used_chunks(self._catalog.all_runs()).get(number, ())):
                    temporary.unlink()
                    return None
                before = pack.path.stat().st_size
                self._catalog.drop_stub(number)  # the copy elsewhere is of other bytes
                temporary.rename(pack.path)
                sync_directory(pack.path.parent)
                self._catalog.replace(number, place(pack, repacked, size))
            return repacked.raw_bytes, before - size
        finally:
            with self._lock:
                self.readers -= 1
