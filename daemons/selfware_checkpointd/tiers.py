"""Moves packs to the cold store, so that at every instant at least one whole copy is known to be there.

    ckpt-7.pack                            here only
    ckpt-7.pack, ckpt-7.moving             parts are put there and read back, one by one; none is believed yet
    ckpt-7.pack, ckpt-7.cold               one rename: all parts were right, both copies count
    ckpt-7.cold                            read back again, then the one here was removed
    ckpt-7-<key>.gone                      nobody needs the copy: its objects are removed there, then this

Whatever dies when, the next turn goes on from the names. A store that is away only makes it wait, longer each time.
The lock is held for changes of names only, never while something travels. Owns ``.moving`` and ``.gone``; the other
names are the catalog's.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from selfware_checkpointd import coldstub
from selfware_checkpointd.catalog import Catalog, Pack
from selfware_checkpointd.coldstore import ColdStore
from selfware_checkpointd.coldstub import GONE, MOVING, Stub
from selfware_checkpointd.errors import ColdAwayError, disk_error
from selfware_checkpointd.files import sync_directory, write_durably
from selfware_checkpointd.manifest import checkpoint_id
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.packs import unpack_group
from selfware_checkpointd.repacking import is_loose
from selfware_checkpointd.tiering import ColdPolicy, Held, Plan, Used, plan, plan_for_room
from selfware_checkpointd.upkeep import Upkeep
from selfware_checkpointd.uses import Uses
from selfware_checkpointd.vault import NO_VAULT, Vault

MOVE_BYTES = 128 * 1024 * 1024  # a time: 2 MB/s if that is once a minute
EVERYTHING = 1 << 62
RIGHT_SECONDS = 3600.0  # so long what was read back counts as right
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 60.0, 1800.0


class Tiers:
    """Works on one catalog and one store; ``notes`` collects sentences for the log."""

    def __init__(
        self, catalog: Catalog, reader: PackReader, upkeep: Upkeep, cold: ColdStore | None, vault: Vault = NO_VAULT
    ) -> None:
        self._vault = vault
        self._catalog = catalog
        self._reader = reader
        self._upkeep = upkeep
        self._cold = cold
        self._uses = Uses(catalog, upkeep.lock)
        self._moving = threading.Lock()
        self._is_prepared = False
        self._read_back: dict[tuple[str, int], float] = {}  # (key, part): when it was right
        self._failures = 0
        self._not_before = 0.0
        self.notes: list[str] = []
        self._due = 0  # packs that wait to be copied
        self.behind = ""
        """One sentence while packs are due and cannot be copied."""

    def turn(self, policy: ColdPolicy, now_unix_nanos: int, most_bytes: int = MOVE_BYTES) -> str:
        """Do what is due, until about so many bytes were copied; one sentence, "" if there was nothing to do."""
        is_asked_for = most_bytes > MOVE_BYTES  # by a person, who need not wait
        return self._carry_out(lambda: self._plan(policy, now_unix_nanos), now_unix_nanos, most_bytes, is_asked_for)

    def make_room(self, limit_bytes: int, now_unix_nanos: int) -> str:
        """Push packs out until the store is no larger than this, before anything is deleted; one sentence."""
        if self._cold is None or self._size() <= limit_bytes:
            return ""
        wanted = self._plan_for_room
        return self._carry_out(lambda: wanted(limit_bytes), now_unix_nanos, EVERYTHING, False, is_for_room=True)

    def tier_of(self, number: int) -> tuple[str, int]:
        """Where a checkpoint's own pack lies ("warm", "warm and cold", "cold"), and its bytes in the cold store. Takes
        no lock: the event loop asks."""
        pack = self._catalog.packs.get(number)
        stub = pack.stub if pack is not None else None
        if pack is None or stub is None:
            return "warm", 0
        return ("warm and cold" if pack.is_here else "cold"), stub.pack_bytes

    def facts(self) -> dict[str, str]:
        """Numbers for `selfwarectl status`, if there is a cold store or was one. Takes no lock."""
        stubs = [stub for _, pack in self._catalog.all() if (stub := pack.stub) is not None]
        if self._cold is None and not stubs:
            return {}
        size = sum(stub.pack_bytes for stub in stubs)
        return {"cold_packs": str(len(stubs)), "cold_bytes": str(size), "cold_behind": str(self._due)}

    def aside_bytes(self) -> int:
        """What copies take here that are begun, or wait to be removed there: while the store is away they add up."""
        total = 0
        for ending in (MOVING, GONE):
            for path in self._catalog.directory.glob("*" + ending):
                with suppress(FileNotFoundError):
                    total += path.stat().st_size
        return total

    def taken_notes(self) -> list[str]:
        """The notes, once."""
        taken, self.notes = self.notes, []
        return taken

    def copy_is_right(self, stub: Stub, seconds: float = RIGHT_SECONDS) -> bool:
        """Is every part in the store what it should be? What was read that lately is not read again. ColdAwayError if
        the store cannot be reached."""
        store, now = self._reader.store_of(stub), time.monotonic()
        for part, digest in enumerate(stub.part_hashes):
            if now - self._read_back.get((stub.key, part), float("-inf")) < seconds:
                continue
            try:
                is_right = blake3(store.get(stub.name_of(part))).digest() == digest
            except FileNotFoundError:
                is_right = False
            if not is_right:
                return False
            self._read_back[stub.key, part] = now
        return True

    def _carry_out(
        self, decide: Callable[[], Plan], now: int, most_bytes: int, is_asked_for: bool, is_for_room: bool = False
    ) -> str:
        with self._moving:
            if self._cold is None or (time.monotonic() < self._not_before and not is_asked_for):
                return self.behind
            try:
                self._prepare(self._cold)
                said = self._work(self._cold, decide, now, most_bytes, is_for_room)
            except ColdAwayError as error:
                self._failures += 1
                wait = min(FIRST_WAIT_SECONDS * 2 ** (self._failures - 1), LONGEST_WAIT_SECONDS)
                self._not_before = time.monotonic() + wait
                self.behind = f"the cold store waits, nothing is lost: {error.sentence} The next try is in {wait:.0f} s"
                return self.behind
            except OSError as error:
                raise disk_error(error, "a stub of the cold store", self._catalog.directory) from error
            self._failures, self.behind = 0, ""
            return said

    def _prepare(self, cold: ColdStore) -> None:
        """The store may only be made when nothing of ours can lie there: else it is merely not mounted."""
        if self._is_prepared:
            return
        with self._upkeep.lock:
            is_known = any(pack.stub and pack.stub.place == cold.place for pack in self._catalog.packs.values())
        if not is_known:
            cold.prepare()
        self._is_prepared = True

    def _work(self, cold: ColdStore, decide: Callable[[], Plan], now: int, most_bytes: int, is_for_room: bool) -> str:
        self._drop_copies_elsewhere(cold)
        chosen = decide()
        self._give_up_begun(self._not_copied() if is_for_room else chosen.copy)
        removed = self._remove_gone(cold)
        self._due = len(chosen.copy)
        copied = sent = 0
        freed = self._evict_all(chosen.evict)  # first: where the disk is full there is no room for stubs
        for number in chosen.copy:
            if sent >= most_bytes or self._upkeep.is_ending:
                break
            try:
                bytes_sent, is_done = self._copy(cold, number, now, most_bytes - sent)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                continue  # a bad sector: the scrub tells of it, and the others go on
            sent, copied = sent + bytes_sent, copied + is_done
            self._due -= is_done
        freed += self._evict_all(decide().evict) if copied else 0
        parts = [f"copied {copied} packs ({sent} bytes) to the cold store"] if sent or copied else []
        parts += [f"freed {freed} bytes that lie there"] if freed else []
        parts += [f"removed {removed} copies there"] if removed else []
        return ", ".join(parts)

    def _copy(self, cold: ColdStore, number: int, now: int, most_bytes: int) -> tuple[int, bool]:
        """(bytes sent, whether the copy is whole and right). Goes on where the last one stopped."""
        with self._upkeep.lock:
            pack = self._catalog.packs.get(number)
            if pack is None or pack.stub is not None or not pack.is_here:
                return 0, False
            file = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            moving = self._catalog.path_of(number).with_suffix(MOVING)
            stub = self._begun(cold, moving, os.fstat(file).st_size)
            is_new = stub is None
            if stub is None:
                if any(chunk is None for group in pack.groups for chunk in unpack_group(file, group)):
                    return 0, False  # damage is not copied; the scrub tells of it
                try:
                    stub, data = coldstub.make(file, number, cold.place, now)
                except ValueError:
                    return 0, False
                write_durably(moving, [data])
            sent = self._send(cold, stub, file, is_new, most_bytes)
        finally:
            os.close(file)
        if sent is None:
            self._give_up(moving, stub)
            return 0, False
        if any((stub.key, part) not in self._read_back for part in range(len(stub.part_hashes))):
            return sent, False
        with self._upkeep.lock:
            if self._catalog.packs.get(number) is not pack:
                self._give_up(moving, stub)
                return sent, False
            self._catalog.copied(number, stub, moving)
        return sent, True

    def _send(self, cold: ColdStore, stub: Stub, file: int, is_new: bool, most_bytes: int) -> int | None:
        """Put each part there and read it back; bytes sent, None if the pack is another one than the stub's."""
        sent = 0
        for part, digest in enumerate(stub.part_hashes):
            if (stub.key, part) in self._read_back:
                continue
            if sent >= most_bytes or self._upkeep.is_ending:
                break
            start, length = stub.span_of(part)
            data = os.pread(file, length, start)
            if blake3(data).digest() != digest:
                return None
            name = stub.name_of(part)
            if not is_new and _holds(cold, name, digest):
                cold.settle(name)
            else:
                cold.put(name, data)
                sent += length
                if not _holds(cold, name, digest):
                    raise ColdAwayError(place=cold.place, reason=f"object {name} did not come back as it was put there")
            self._read_back[stub.key, part] = time.monotonic()
        return sent

    def _begun(self, cold: ColdStore, moving: Path, size: int) -> Stub | None:
        """The copy that was begun, if it is of this pack and for this store."""
        try:
            stub = coldstub.read(moving).stub
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.notes.append(f"{moving.name} is damaged ({error}): what it put into the cold store may stay there")
            moving.unlink()
            return None
        if stub.place == cold.place and stub.pack_bytes == size:
            return stub
        self._give_up(moving, stub)
        return None

    def _evict_all(self, numbers: Sequence[int]) -> int:
        return sum(self._evict(number) for number in numbers if not self._upkeep.is_ending)

    def _evict(self, number: int) -> int:
        with self._upkeep.lock:
            pack = self._catalog.packs.get(number)
            if pack is None or pack.stub is None or not pack.is_here:
                return 0
            stub = pack.stub
        if not self.copy_is_right(stub):
            self.drop_copy(pack, number)
            return 0
        with self._upkeep.lock:
            if self._upkeep.is_held(number) or self._catalog.packs.get(number) is not pack or pack.stub is not stub:
                return 0  # it is read just now, or changed: the next time
            return self._catalog.evict(number)

    def drop_copy(self, pack: Pack, number: int) -> None:
        """The copy there is not right; the one here is: forget the first, it is made anew. If that one is not right
        either, both stay: the scrub takes what is right of each."""
        try:
            is_right = _is_right(pack)
        except OSError:
            is_right = False
        if not is_right:
            return
        with self._upkeep.lock:
            if self._catalog.packs.get(number) is pack and pack.is_here:
                self._catalog.drop_stub(number)
        self.notes.append(f"the copy of {checkpoint_id(number)} in the cold store was not right; it is copied again")

    def _remove_gone(self, cold: ColdStore) -> int:
        """Remove what nobody needs from the store; the note of it goes last."""
        count = 0
        for path in sorted(self._catalog.directory.glob("*" + GONE)):
            try:
                stub = coldstub.read(path).stub
            except ValueError as error:
                self.notes.append(f"{path.name} is damaged ({error}): what it names may stay in the cold store")
                path.unlink()
                continue
            if stub.place != cold.place:
                continue
            for part in range(len(stub.part_hashes)):
                cold.remove(stub.name_of(part))
                self._read_back.pop((stub.key, part), None)
            path.unlink()
            count += 1
        if count:
            sync_directory(self._catalog.directory)
        return count

    def _drop_copies_elsewhere(self, cold: ColdStore) -> None:
        """What is here and was copied to another store is copied again, to this one."""
        with self._upkeep.lock:
            for number, pack in self._catalog.packs.items():
                if pack.is_here and pack.stub is not None and pack.stub.place != cold.place:
                    self._catalog.drop_stub(number)

    def _not_copied(self) -> set[int]:
        with self._upkeep.lock:
            return {number for number, pack in self._catalog.packs.items() if pack.is_here and pack.stub is None}

    def _give_up_begun(self, wanted: Collection[int]) -> None:
        """Copies that were begun of packs that are gone, were copied otherwise, or are to stay here after all: what was
        put there already would lie there for nothing."""
        for path in sorted(self._catalog.directory.glob("*" + MOVING)):
            digits = path.stem.removeprefix("ckpt-")
            if digits.isdecimal() and int(digits) not in wanted:
                with suppress(ValueError):
                    self._give_up(path, coldstub.read(path).stub)

    def _give_up(self, moving: Path, stub: Stub) -> None:
        moving.rename(moving.with_name(stub.key + GONE))
        sync_directory(moving.parent)

    def _plan(self, policy: ColdPolicy, now: int) -> Plan:
        held, used = self._seen()
        return plan(held, used, now, policy)

    def _plan_for_room(self, limit_bytes: int) -> Plan:
        held, used = self._seen()
        return plan_for_room(held, used, self._size() - limit_bytes)

    def _size(self) -> int:
        with self._upkeep.lock:
            return self._catalog.size_bytes

    def _seen(self) -> tuple[list[Held], list[Used]]:
        """The packs that are here, and what living checkpoints use. One that cannot be read may need any that is older:
        nothing up to it is touched."""
        used, unreadable = self._uses.all()
        with self._upkeep.lock:
            here = {number: pack for number, pack in self._catalog.packs.items() if pack.is_here}
        held = []
        for number, pack in here.items():
            with suppress(FileNotFoundError):
                size, is_settled = pack.path.stat().st_size, not pack.problem and not is_loose(pack)
                is_settled &= self._vault.key_id in (None, pack.key_id)  # what leaves is encrypted as it should be
                if number > unreadable:
                    held.append(Held(number, size, pack.stub is not None, is_settled))
        return held, used


def _is_right(pack: Pack) -> bool:
    file = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return all(chunk is not None for group in pack.groups for chunk in unpack_group(file, group))
    finally:
        os.close(file)


def _holds(cold: ColdStore, name: str, digest: bytes) -> bool:
    try:
        return blake3(cold.get(name)).digest() == digest
    except FileNotFoundError:
        return False
