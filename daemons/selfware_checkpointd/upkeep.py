"""Deletes checkpoints and packs the others tighter, while saves and reads go on.

A read may take as long as its reader likes, so it holds no lock: it names the packs that it needs, and none of them is
moved, removed or replaced meanwhile; what was to be done is done the next time. Every step is one atomic change of a
name: whatever dies when, the next round finishes it.

Owns no file that is being written. Shares the store's lock.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext

from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.chunklist import Newest
from selfware_checkpointd.errors import disk_error
from selfware_checkpointd.files import Sync, sync_directory, write_aside
from selfware_checkpointd.plans import Plan
from selfware_checkpointd.precedence import Precedence
from selfware_checkpointd.repacking import DEAD_SHARE, Repacking, UnreadablePackError, place, worth_repacking
from selfware_checkpointd.room import Room
from selfware_checkpointd.vault import NO_VAULT, Vault

TIGHTEN_BYTES = 64 * 1024 * 1024  # a time: 2 % of one processor if that is once a minute
PATIENCE_SECONDS = 1.0  # whoever makes room for a save does not wait long for another one's packing
AT_ONCE = 16  # manifests read while saves wait


class Upkeep:
    """Works on one catalog."""

    def __init__(
        self,
        catalog: Catalog,
        lock: threading.RLock,
        newest: Newest,
        sync: Sync,
        compression_level: int,
        room: Room,
        vault: Vault = NO_VAULT,
    ) -> None:
        self._vault = vault
        self._compression_level = compression_level
        self._catalog = catalog
        self.lock = self._lock = lock
        self._newest = newest
        self._sync = sync
        self._room = room
        self.rewriting = threading.Lock()  # held by whoever writes packs anew, beside themselves
        self._held: Counter[int] = Counter()  # packs that are being read, or written anew, and by how many
        self.precedence = Precedence()
        self.is_ending = False  # the daemon stops: begin no further pack

    def hold(self, plan: Plan) -> Collection[int]:
        """Leave alone what this plan reads, until it is released. With the lock held."""
        numbers = {plan.info.number, *(number for number, _ in plan.groups)}
        self._held.update(numbers)
        return numbers

    def release(self, numbers: Collection[int]) -> None:
        """They were read. With the lock held."""
        self._held -= Counter(numbers)

    def is_held(self, number: int) -> bool:
        """Must this pack be left alone? With the lock held."""
        return self._held[number] > 0

    def delete(self, doomed: Sequence[int]) -> str:
        """Delete these checkpoints, and every chunk that nobody needs any more; one sentence."""
        self._settle()
        with self._lock:
            self._catalog.uses.settle(1 << 30)
            going = [number for number in doomed if not self.is_held(number)]
            try:
                if going:
                    self._catalog.retire(going)
                    for number in going:
                        self._newest.forget(number)
                freed = self._catalog.sweep(self._held)
            except OSError as error:
                raise disk_error(error, "the checkpoint directory", self._catalog.directory) from error
        waiting = f"; {len(doomed) - len(going)} wait, for they are being read" if len(going) < len(doomed) else ""
        return f"deleted {len(going)} checkpoints, freed {freed} bytes{waiting}"

    def tighten(self, most_bytes: int, dead_share: float = DEAD_SHARE, may_wait: bool = False) -> str:
        """Write packs anew that become smaller, or are not encrypted as they should be, oldest first, until about so
        many bytes were read. "" if there was nothing to do, or somebody else is at it for longer. ``may_wait``: it
        may as well be done later; else whoever is at it goes on at once."""
        with nullcontext() if may_wait else self.precedence.pressing():
            if not self.rewriting.acquire(timeout=PATIENCE_SECONDS):
                return ""
            try:
                return self._tighten_some(most_bytes, dead_share, self.precedence.turn().step_aside)
            finally:
                self.rewriting.release()

    def end(self) -> None:
        """The daemon stops: come to an end, and begin no further pack."""
        self.is_ending = True
        self.precedence.press_on()

    def _settle(self) -> None:
        """Count what living checkpoints use, a few of them at a time: after a start there are many."""
        more = True
        while more and not self.is_ending:
            with self._lock:
                more = self._catalog.uses.settle(AT_ONCE)

    def _tighten_some(self, most_bytes: int, dead_share: float, before_each: Callable[[], None]) -> str:
        self._settle()
        with self._lock:
            numbers = list(worth_repacking(self._catalog.packs, self._catalog.uses, dead_share, self._vault))
        read = freed = count = 0
        for number in numbers:
            if read >= most_bytes or self.is_ending:
                break
            try:
                done = self._tighten(number, before_each)
            except OSError as error:
                raise disk_error(error, "a checkpoint anew", self._catalog.directory) from error
            if done is not None:
                read, freed, count = read + done[0], freed + done[1], count + 1
        return f"packed {count} checkpoints tighter, freed {freed} bytes" if count else ""

    def _tighten(self, number: int, before_each: Callable[[], None]) -> tuple[int, int] | None:
        """(bytes read, bytes freed); None if it has to wait, or is damaged. The lock is not held while it works."""
        with self._lock:
            pack = self._catalog.packs.get(number)
            if pack is None or pack.problem or not pack.is_here or self.is_held(number):
                return None
            alive = self._catalog.uses.alive(number, pack.numbers)
            lost = self._catalog.lost.get(number, set())
            if lost if pack.is_live else not lost.isdisjoint(alive):
                return None  # until it is healed: it would be written in vain, up to the damage, each time
            self._held[number] += 1
        try:
            with self._room.borrowed(pack.size_bytes) as fits:
                if not fits:
                    return None
                repacked = Repacking(pack, number, alive, self._compression_level, self._vault)
                try:
                    temporary, size = write_aside(pack.path, repacked.pieces(before_each), self._sync)
                except UnreadablePackError as error:
                    with self._lock:
                        self._catalog.forget([(number, index) for index in error.lost])
                    return None
                with self._lock:
                    self._catalog.uses.settle(1 << 30)
                    is_ours = self._held[number] == 1 and self._catalog.packs.get(number) is pack
                    if not is_ours or not repacked.holds(self._catalog.uses.alive(number, pack.numbers)):
                        temporary.unlink()
                        return None
                    self._catalog.drop_stub(number)  # the copy elsewhere is of other bytes
                    temporary.rename(pack.path)
                    self._catalog.replace(number, place(pack, repacked, size))
                    sync_directory(pack.path.parent)
            return repacked.raw_bytes, pack.size_bytes - size
        finally:
            with self._lock:
                self._held -= Counter((number,))
