"""Verifies one pack, here and in the cold store, and heals what it can: from the other copy, else chunk by chunk.

A pack is written anew beside itself and renamed over, or comes back from the cold store in the same way: whoever dies
when, there is one whole file. While checkpoints are being read nothing is replaced; that is tried again later.

Owns temporary files only. Never decides what is verified when (``scrub`` does).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from blake3 import blake3

from selfware_checkpointd import coldstub
from selfware_checkpointd.catalog import CHUNKS_ONLY, LIVE, Catalog, Pack
from selfware_checkpointd.chunklist import Newest
from selfware_checkpointd.coldstub import Stub
from selfware_checkpointd.errors import ColdAwayError
from selfware_checkpointd.files import TEMPORARY_SUFFIX, Sync, sync_directory, write_all, write_aside, write_durably
from selfware_checkpointd.manifest import checkpoint_id, encode_manifest
from selfware_checkpointd.mending import Find, Mended, mend
from selfware_checkpointd.pack_boxes import box_name
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.packs import Group, ends_of, heads_are_right, read_index, unpack_frame, unpack_group
from selfware_checkpointd.tiers import Tiers
from selfware_checkpointd.upkeep import Upkeep
from selfware_checkpointd.vault import NO_VAULT, Box, Vault


class Result(Enum):
    """What came of it."""

    RIGHT = "right"
    HEALED = "healed"
    DAMAGED = "damaged"
    LATER = "later"  # it is being read, or the cold store is away


@dataclass(slots=True)
class Seen:
    """What a look at a pack found."""

    manifest: bytes | None
    is_framed: bool  # header, heads, index and trailer are right
    good: dict[int, list[bytes | None]] = field(default_factory=dict)  # of damaged groups, by first chunk


class Healer:
    """Works on one catalog; ``notes`` collects a sentence about everything that was not right."""

    def __init__(
        self,
        catalog: Catalog,
        reader: PackReader,
        upkeep: Upkeep,
        tiers: Tiers,
        newest: Newest,
        sync: Sync,
        find: Find,
        vault: Vault = NO_VAULT,
    ) -> None:
        self._vault = vault
        self._catalog = catalog
        self._reader = reader
        self._upkeep = upkeep
        self._tiers = tiers
        self._newest = newest
        self._sync = sync
        self._find = find
        self.notes: list[str] = []

    def check(self, number: int, with_cold: bool) -> Result:
        """Verify this pack and its copy. Blocking; reads all of both."""
        with self._upkeep.lock:
            pack = self._catalog.packs.get(number)
        if pack is None:
            return Result.RIGHT
        with self._upkeep.rewriting:
            return self._check(pack, number, with_cold)

    def _check(self, pack: Pack, number: int, with_cold: bool) -> Result:
        result = self._check_here(pack, number) if pack.is_here else Result.RIGHT
        if pack.stub is None or result is Result.LATER:
            return result
        try:
            mended = self._check_stub(pack, number)
            copied = self._check_copy(pack, number, result) if with_cold else Result.RIGHT
        except FileNotFoundError:
            if not self._is_current(pack, number) or pack.stub is None:  # it was deleted meanwhile, or is copied anew
                return result
            self.notes.append(f"the stub {pack.stub_path.name} is damaged, and the cold store does not have its pack")
            return Result.DAMAGED
        except ColdAwayError as error:
            self.notes.append(f"the copy of {checkpoint_id(number)} was not verified: {error.sentence}")
            return result
        return max(result, mended, copied, key=[*Result].index)

    def _check_here(self, pack: Pack, number: int) -> Result:
        try:
            file = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            file = -1
        try:
            try:
                seen = self._look(pack, number, file)
            except OSError:  # a bad sector: the other copy can be written to a better place
                if pack.stub is None:
                    raise
                seen = self._look(pack, number, -1)
            if seen.is_framed and not seen.good:
                return Result.RIGHT
            if not self._is_current(pack, number):
                return Result.RIGHT  # it was written anew meanwhile, from what is right
            if pack.stub is not None and (fetched := self._fetch(pack, number)) is not None:
                return fetched
            return self._mend_here(pack, number, file, seen)
        finally:
            if file >= 0:
                os.close(file)

    def _look(self, pack: Pack, number: int, file: int) -> Seen:
        if file < 0:
            return Seen(None, False, {group.first: [None] * len(group.hashes) for group in pack.groups})
        index = read_index(file, number, self._vault)
        is_framed = index.manifest is not None and index.groups == pack.groups and heads_are_right(file, pack.groups)
        seen = Seen(index.manifest, is_framed)
        for group in pack.groups:
            chunks = unpack_group(file, group)
            if None in chunks:
                seen.good[group.first] = chunks
        return seen

    def _fetch(self, pack: Pack, number: int) -> Result | None:
        """Take the whole file from the cold store; None if that copy is not right or not there."""
        stub = pack.stub
        assert stub is not None
        temporary = pack.path.with_name(pack.path.name + TEMPORARY_SUFFIX)
        try:
            store = self._reader.store_of(stub)
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                for part, digest in enumerate(stub.part_hashes):
                    data = store.get(stub.name_of(part))
                    if blake3(data).digest() != digest:
                        raise FileNotFoundError
                    write_all(file, [data])
                self._sync(file)
            finally:
                os.close(file)
        except FileNotFoundError:
            temporary.unlink(missing_ok=True)
            return None
        except ColdAwayError:
            temporary.unlink(missing_ok=True)
            self.notes.append(f"{pack.path.name} is damaged and heals when the cold store, {stub.place}, is back")
            return Result.LATER
        return self._put(pack, number, temporary, None, "from the cold store")

    def _mend_here(self, pack: Pack, number: int, file: int, seen: Seen) -> Result:
        bad = _bad(pack.groups, seen)
        with self._upkeep.lock:
            self._catalog.forget([(number, index) for index in bad])
            manifest = seen.manifest or self._manifest(number, pack)
        if manifest is None or file < 0:
            self.notes.append(f"{pack.path.name} is damaged: {_words(len(bad), seen)}, and nothing can mend it")
            return Result.DAMAGED
        frames: Callable[[Group], bytes] = lambda group: os.pread(file, group.stored_bytes, group.offset)  # noqa: E731
        find = self._with_copy_of(pack, seen)
        mended = mend(pack, number, manifest, frames, seen.good, find, self._box(pack, number))
        result = Result.DAMAGED
        if mended.found or not seen.is_framed:
            temporary, _ = write_aside(pack.path, mended.pieces, self._sync)
            what = f"from {mended.found} chunks found elsewhere" if mended.found else "from what is right of it"
            result = self._put(pack, number, temporary, mended, what)
        if mended.lost:
            self.notes.append(f"{pack.path.name} is damaged: {len(mended.lost)} of its chunks are found nowhere else")
            return Result.DAMAGED
        return result

    def _with_copy_of(self, pack: Pack, seen: Seen) -> Find:
        """Finds what is damaged here in the pack's own copy, too, which is damaged somewhere else."""
        there: dict[bytes, bytes | None] = {}
        stub = pack.stub
        for group in pack.groups:
            if stub is not None and group.first in seen.good:
                with suppress(FileNotFoundError, ColdAwayError):
                    chunks = unpack_frame(self._reader.cold_frame(stub, group), group)
                    there.update(zip(group.hashes, chunks, strict=True))
        return lambda digest: there.get(digest) or self._find(digest)

    def _box(self, pack: Pack, number: int) -> Box | None:
        """What a pack's parts are sealed with, if they are: it stays so."""
        boxes = [group.box for group in pack.groups if group.box is not None]
        if pack.key_id is None:
            return boxes[0] if boxes else None
        return self._vault.opening(pack.key_id, box_name(number), f"Checkpoint {checkpoint_id(number)}")

    def _put(self, pack: Pack, number: int, temporary: Path, mended: Mended | None, what: str) -> Result:
        """Into its place, if nobody reads just now."""
        with self._upkeep.lock:
            if self._upkeep.is_held(number) or not self._is_current(pack, number):
                temporary.unlink()
                return Result.LATER
            if mended is not None:
                self._catalog.drop_stub(number)  # the copy elsewhere is of other bytes
            size = temporary.stat().st_size
            temporary.rename(pack.path)
            sync_directory(pack.path.parent)
            if mended is not None:
                self._catalog.replace(number, replace(_with_groups(pack, mended.groups), size_bytes=size))
            else:
                self._catalog.came_back(pack, size)
            self._catalog.found_again(number, mended.lost if mended else frozenset())
        self.notes.append(f"{pack.path.name} was damaged and is healed, {what}")
        return Result.HEALED

    def _check_copy(self, pack: Pack, number: int, here: Result) -> Result:
        stub = pack.stub
        assert stub is not None
        if self._tiers.copy_is_right(stub, 0.0) or not self._is_current(pack, number):
            return Result.RIGHT
        if pack.is_here:
            if here is Result.DAMAGED:  # what is right of either is worth keeping
                self.notes.append(f"the copy of {checkpoint_id(number)} in the cold store is damaged, too")
                return here
            self._tiers.drop_copy(pack, number)
            return Result.HEALED
        return self._bring_back(pack, number)

    def _bring_back(self, pack: Pack, number: int) -> Result:
        """The only copy lies in the cold store and is not right."""
        stub = pack.stub
        assert stub is not None
        self._reader.forget(stub)

        def frames(group: Group) -> bytes:
            with suppress(FileNotFoundError):
                return self._reader.cold_frame(stub, group)
            return b""

        with self._upkeep.lock:
            if not self._is_current(pack, number):
                return Result.RIGHT  # deleted meanwhile
            index = self._catalog.index_of(number)
        if index.manifest is None:
            self.notes.append(f"{pack.path.name} is damaged in the cold store, and its stub is damaged here")
            return Result.DAMAGED
        seen = Seen(index.manifest, False)
        for group in pack.groups:
            chunks = unpack_frame(frames(group), group)
            if None in chunks:
                seen.good[group.first] = chunks
        with self._upkeep.lock:
            self._catalog.forget([(number, index) for index in _bad(pack.groups, seen)])
        mended = mend(pack, number, index.manifest, frames, seen.good, self._find, self._box(pack, number))
        if mended.lost:
            said = f"{len(mended.lost)} of its chunks are found nowhere else"
            self.notes.append(f"{pack.path.name} is damaged in the cold store: {said}")
            return Result.DAMAGED
        path = pack.path.with_suffix(LIVE if pack.is_live else CHUNKS_ONLY)
        temporary, size = write_aside(path, mended.pieces, self._sync)
        with self._upkeep.lock:
            if self._upkeep.is_held(number) or not self._is_current(pack, number):
                temporary.unlink()
                return Result.LATER
            path = pack.path.with_suffix(LIVE if pack.is_live else CHUNKS_ONLY)  # it may be deleted meanwhile
            temporary.rename(path)
            sync_directory(path.parent)
            info = replace(pack.info, stored_bytes=size) if pack.info else None
            total = size + pack.size_bytes  # with that of the stub
            self._catalog.replace(
                number, replace(_with_groups(pack, mended.groups), path=path, info=info, size_bytes=total)
            )
            self._catalog.found_again(number, frozenset())
            self._catalog.drop_stub(number)
        self.notes.append(f"the copy of {checkpoint_id(number)} in the cold store was damaged; a healed one is here")
        return Result.HEALED

    def _check_stub(self, pack: Pack, number: int) -> Result:
        """The stub's own file: written anew if a byte of it is wrong."""
        stub = pack.stub
        assert stub is not None
        with suppress(OSError, ValueError):
            if coldstub.is_canonical(pack.stub_path.read_bytes(), stub, self._vault):
                return Result.RIGHT
        header, tail = self._ends(pack, stub)
        with self._upkeep.lock:
            if not self._is_current(pack, number) or pack.stub is not stub:
                return Result.RIGHT
            write_durably(pack.stub_path, [coldstub.encode(stub, header, tail)])
            if not pack.is_here:
                self._catalog.add_stub(pack.path, number)
        self.notes.append(f"the stub {pack.stub_path.name} was damaged and is written anew")
        return Result.HEALED

    def _ends(self, pack: Pack, stub: Stub) -> tuple[bytes, bytes]:
        """The pack's ends, from here if they are right here."""
        if pack.is_here:
            with suppress(OSError, ValueError):
                file = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    header, tail = ends_of(file)
                finally:
                    os.close(file)
                if coldstub.is_canonical(coldstub.encode(stub, header, tail), stub, self._vault):
                    return header, tail
        return coldstub.ends_in_store(stub, self._reader.store_of(stub), self._vault)

    def _is_current(self, pack: Pack, number: int) -> bool:
        with self._upkeep.lock:
            return self._catalog.packs.get(number) is pack

    def _manifest(self, number: int, pack: Pack) -> bytes | None:
        """The manifest once more, if the checkpoint's chunks are still known."""
        chunks = self._newest.get(number)
        return encode_manifest(pack.info, chunks.runs) if chunks is not None and pack.info is not None else None


def _with_groups(pack: Pack, groups: list[Group]) -> Pack:
    return replace(pack, groups=groups, firsts=[group.first for group in groups], problem="")


def _bad(groups: list[Group], seen: Seen) -> list[int]:
    return [
        index
        for group in groups
        for index, chunk in enumerate(seen.good.get(group.first, ()), group.first)
        if chunk is None
    ]


def _words(count: int, seen: Seen) -> str:
    said = [f"{count} of its chunks do not match their hashes"] if count else []
    return " and ".join(said + ([] if seen.is_framed else ["its index does not match"]))
