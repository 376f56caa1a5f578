"""Every pack on disk and where every chunk lies: rebuilt from the packs whenever the daemon starts.

A pack whose checkpoint is alive is called ``ckpt-<number>.pack``; when the checkpoint was deleted and later ones
still use its chunks it is renamed to ``.chunks``, which is one atomic step. An empty one is the next checkpoint's; see
``packing`` for how a save that was cut off is told from damage. A chunk that turns out to be damaged is forgotten here,
so that the next save stores it again and older checkpoints heal with it.

A pack that lies in the cold store is known by its stub (``coldstub``): beside the pack while there is a copy here too,
instead of it afterwards. What a file here says of whether the checkpoint is alive goes before what a stub says.

Owns the names in the checkpoint directory. Not thread-safe, but for ``all`` and ``latest``: the store holds a lock.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from selfware_checkpointd import coldstub
from selfware_checkpointd.chunk_uses import ChunkUses
from selfware_checkpointd.chunklist import ChunkList
from selfware_checkpointd.coldstub import COLD, COLD_CHUNKS, GONE, Stub
from selfware_checkpointd.files import by_number, remove_leftovers, sync_directory, sync_file
from selfware_checkpointd.manifest import CheckpointInfo, Level, Run, checkpoint_id, decode_manifest
from selfware_checkpointd.packs import VERSION, Group, PackIndex, read_index
from selfware_checkpointd.ruins import ruin_at
from selfware_checkpointd.thinning import Ruin
from selfware_checkpointd.vault import NO_VAULT, Vault

LIVE = ".pack"
CHUNKS_ONLY = ".chunks"


@dataclass(slots=True)
class Pack:
    """One file: its chunks, and its checkpoint if that is alive and readable."""

    path: Path
    session_id: str
    groups: list[Group]
    info: CheckpointInfo | None = None
    problem: str = ""
    firsts: list[int] = field(default_factory=list)
    version: int = VERSION
    key_id: bytes | None = None  # of the key it is encrypted with
    stub: Stub | None = None  # where its copy lies in the cold store; the only one unless it is here
    size_bytes: int = 0  # of the file, and of its stub

    @property
    def is_live(self) -> bool:
        """Does this file still stand for a checkpoint?"""
        return self.path.suffix in (LIVE, COLD)

    @property
    def is_here(self) -> bool:
        """Is the pack itself on this disk?"""
        return self.path.suffix in (LIVE, CHUNKS_ONLY)

    @property
    def stub_path(self) -> Path:
        """Where its stub lies, if it has one."""
        return self.path.with_suffix(COLD if self.is_live else COLD_CHUNKS)

    @property
    def numbers(self) -> Iterator[int]:
        """Of its chunks."""
        return (index for group in self.groups for index in range(group.first, group.first + len(group.hashes)))

    def group_of(self, chunk: int) -> Group | None:
        """The group that holds a chunk."""
        at = bisect_right(self.firsts, chunk) - 1
        if at < 0 or chunk >= self.groups[at].first + len(self.groups[at].hashes):
            return None
        return self.groups[at]


class Catalog:
    """The packs of one directory, by number."""

    def __init__(self, directory: Path, vault: Vault = NO_VAULT) -> None:
        """Reads the end of every pack; KeyMissingError if one is encrypted with a key that is not here."""
        self.directory = directory
        self._vault = vault
        self.packs: dict[int, Pack] = {}
        self.places: dict[bytes, tuple[int, int]] = {}
        self.lost: dict[int, set[int]] = {}  # per pack, the chunks that turned out to be damaged
        self.cut_off = ""  # one sentence about a save that never ended
        self.uses = ChunkUses(self.runs_of)
        self.size_bytes = 0  # of all files
        self._highest = 0
        self._said: dict[tuple[str, Level, int, bytes], int] = {}
        remove_leftovers(directory)
        files, stubs = by_number(directory, (LIVE, CHUNKS_ONLY)), by_number(directory, (COLD, COLD_CHUNKS))
        for number in sorted({*files, *stubs}):
            is_last = number == max({*files, *stubs}) and number not in stubs
            if number not in files:
                self.add_stub(stubs[number], number)
            elif files[number].stat().st_size or not is_last:
                self._add_file(files[number], number, is_last, stubs.get(number))

    def all(self) -> list[tuple[int, Pack]]:
        """Every pack with its number, as of now: one step of the interpreter, so this needs no lock."""
        return list(self.packs.items())

    def next_number(self) -> int:
        """Larger than every number that was ever in use."""
        return self._highest + 1

    def path_of(self, number: int) -> Path:
        """Where a live checkpoint's pack lies."""
        return self.directory / (checkpoint_id(number) + LIVE)

    def add(self, path: Path, info: CheckpointInfo, groups: list[Group]) -> None:
        """Enter a pack that was just made durable."""
        pack = Pack(path, info.session_id, groups, info, key_id=self._vault.key_id, size_bytes=info.stored_bytes)
        self._enter(info.number, pack)

    def runs_of(self, number: int) -> list[Run]:
        """The runs of a live checkpoint, read from its pack again; raises ValueError if that fails now."""
        index = self.index_of(number)
        if index.manifest is None:
            raise ValueError(index.problem)
        return decode_manifest(index.manifest, 0)[1]

    def index_of(self, number: int) -> PackIndex:
        """A pack's index as the disk has it now, from its stub if its own is damaged."""
        pack = self.packs[number]
        index = self._read(pack.path, number)
        return self._read(pack.stub_path, number) if index.manifest is None and pack.stub is not None else index

    def replace(self, number: int, pack: Pack) -> None:
        """The same chunks, or fewer, lie in another way in the same file now."""
        old = self.packs[number]
        self.packs[number] = pack
        self.size_bytes += pack.size_bytes - old.size_bytes
        kept = {index for group in pack.groups for index in range(group.first, group.first + len(group.hashes))}
        for group in old.groups:
            for index, digest in enumerate(group.hashes, group.first):
                if index not in kept and self.places.get(digest) == (number, index):
                    del self.places[digest]

    def chunks_of(self, number: int) -> ChunkList:
        """The chunks of a live checkpoint in order; raises ValueError if one of its packs is gone or damaged."""
        chunks = ChunkList()
        for run in self.runs_of(number):
            index, end = run.first, run.first + run.count
            while index < end:
                pack = self.packs.get(run.pack)
                group = pack.group_of(index) if pack else None
                if group is None:
                    raise ValueError(f"chunk {index} of {checkpoint_id(run.pack)} is missing")
                at = index - group.first
                stop = min(end - index, len(group.hashes) - at)
                for digest, length in zip(group.hashes[at : at + stop], group.lengths[at : at + stop], strict=True):
                    chunks.add(digest, length, run.pack, index)
                    index += 1
        return chunks

    def ruins(self) -> list[Ruin]:
        """Checkpoints whose own record is damaged, read once more: what could not be read may be well now, and what a
        newer Selfware wrote is not damaged."""
        lost = {n: pack for n, pack in self.packs.items() if pack.is_live and pack.info is None}
        own = {n: pack for n, pack in lost.items() if pack.is_here or pack.stub is None}  # else it is mended from there
        found = [ruin_at(pack.path, number, pack.session_id, self._vault) for number, pack in own.items()]
        return [one for one in found if one is not None]

    def latest(self, session_id: str, level: Level | None = None) -> CheckpointInfo | None:
        """The newest readable one of a session, of this level if one is given."""
        for _, pack in reversed(self.all()):
            info = pack.info
            if info is not None and info.session_id == session_id and level in (None, info.level):
                return info
        return None

    def same(self, session_id: str, level: Level, sequence: int, root: bytes) -> CheckpointInfo | None:
        """The checkpoint that says exactly this already."""
        number = self._said.get((session_id, level, sequence, root))
        return None if number is None else self.packs[number].info

    def forget(self, damaged: Sequence[tuple[int, int]]) -> None:
        """These chunks (pack, number in it) are not what their hashes say: the next save stores them again."""
        for number, index in damaged:
            self.lost.setdefault(number, set()).add(index)
            pack = self.packs.get(number)
            group = pack.group_of(index) if pack else None
            if group is not None and self.places.get(group.hashes[index - group.first]) == (number, index):
                del self.places[group.hashes[index - group.first]]

    def found_again(self, number: int, still_lost: frozenset[int]) -> None:
        """A pack was healed, but for these chunks."""
        pack = self.packs[number]
        if self.lost.pop(number, None) is not None and still_lost:
            self.lost[number] = set(still_lost)
        for group in pack.groups:
            for index, digest in enumerate(group.hashes, group.first):
                if index not in still_lost:
                    self.places.setdefault(digest, (number, index))

    def others(self, digest: bytes) -> list[tuple[Pack, Group, int]]:
        """Every place where this chunk should lie and is not known to be damaged: pack, group, which one in it."""
        return [
            (pack, group, at)
            for number, pack in self.packs.items()
            for group in pack.groups
            for at, found in enumerate(group.hashes)
            if found == digest and group.first + at not in self.lost.get(number, ())
        ]

    def retire(self, numbers: Sequence[int]) -> None:
        """These checkpoints are gone; their chunks stay until ``sweep``."""
        for number in numbers:
            pack = self.packs[number]
            if pack.info is not None:
                self._said.pop(_saying(pack.info), None)
            was_here, live_stub = pack.is_here, self.path_of(number).with_suffix(COLD)
            if was_here:
                retired = pack.path.with_suffix(CHUNKS_ONLY)
                pack.path.rename(retired)
                pack.path = retired
            if pack.stub is not None or not was_here:
                with contextlib.suppress(
                    FileNotFoundError
                ):  # it has its new name already: the last try failed between the two
                    live_stub.rename(live_stub.with_suffix(COLD_CHUNKS))
                pack.path = pack.path if was_here else live_stub.with_suffix(COLD_CHUNKS)
            pack.info = None
            self.uses.leave(number)
        sync_directory(self.directory)

    def copied(self, number: int, stub: Stub, moving: Path) -> None:
        """Its copy in the cold store was read back and is right: the stub lies in that file and becomes valid now."""
        pack = self.packs[number]
        moving.rename(pack.stub_path)
        try:
            sync_directory(self.directory)
        except OSError:
            # As it was, so that the next turn goes on with this copy. A stub whose name may not last must not count,
            # for its pack might be removed next; one that nobody knows of, that of another copy would overwrite.
            with contextlib.suppress(OSError):
                pack.stub_path.rename(moving)
            raise
        pack.stub = stub
        self._grow(pack, pack.stub_path.stat().st_size)

    def drop_stub(self, number: int) -> None:
        """The copy in the cold store is not wanted any more; to be removed there later."""
        pack = self.packs[number]
        if pack.stub is not None:
            size = pack.stub_path.stat().st_size
            pack.stub_path.rename(self.directory / (pack.stub.key + GONE))
            pack.stub = None
            self._grow(pack, -size)
            sync_directory(self.directory)

    def evict(self, number: int) -> int:
        """Only the copy in the cold store stays; the bytes freed here."""
        pack = self.packs[number]
        if pack.stub is None or not pack.is_here:
            return 0
        freed = pack.path.stat().st_size
        stub_path = pack.stub_path
        pack.path.unlink()
        pack.path = stub_path  # whether or not the sync is to fail: it is gone
        self._grow(pack, -freed)
        if pack.info is not None:
            pack.info = replace(pack.info, stored_bytes=0)  # deleting it would free nothing here
        sync_directory(self.directory)
        return freed

    def came_back(self, pack: Pack, size: int) -> None:
        """Its file is whole again, and has so many bytes."""
        self._grow(pack, size + (pack.stub_path.stat().st_size if pack.stub is not None else 0) - pack.size_bytes)

    def _grow(self, pack: Pack, size: int) -> None:
        pack.size_bytes += size
        self.size_bytes += size

    def sweep(self, spared: Container[int] = ()) -> int:
        """Remove packs that no living checkpoint uses, but for some; returns the bytes freed. Harmless when it runs
        twice."""
        unused = [
            number
            for number, pack in self.packs.items()
            if not pack.is_live and number not in spared and not self.uses.is_used(number)
        ]
        before = self.size_bytes
        for number in unused:
            pack = self.packs[number]
            if pack.stub is not None:
                with contextlib.suppress(FileNotFoundError):  # the rest failed the last time
                    pack.stub_path.rename(self.directory / (pack.stub.key + GONE))
            elif not pack.is_here and ruin_at(pack.path, number, pack.session_id, self._vault):
                pack.path.unlink()
            if pack.is_here:
                pack.path.unlink(missing_ok=True)
            del self.packs[number]
            self.lost.pop(number, None)
            self.uses.forget(number)
            self.size_bytes -= pack.size_bytes
            for group in pack.groups:
                for index, digest in enumerate(group.hashes, group.first):
                    if self.places.get(digest) == (number, index):
                        del self.places[digest]
        if unused:
            sync_directory(self.directory)
        return before - self.size_bytes

    def _add_file(self, path: Path, number: int, is_last: bool, stub_path: Path | None) -> None:
        size = path.stat().st_size
        index = self._read(path, number)
        stub = self._stub_beside(path, stub_path, index) if stub_path else None
        if index.manifest is None and stub is not None:
            index = self._read(path.with_suffix(COLD if path.suffix == LIVE else COLD_CHUNKS), number)
        if not index.is_whole and is_last and path.suffix == LIVE:
            self.cut_off = f"{path.stem} was cut off while it was saved, before anybody knew of it; it is removed"
            os.truncate(path, 0)
            return
        if is_last and path.suffix == LIVE:
            # Nobody was told of it if its writer was killed before the sync; from here on somebody may be.
            sync_file(path)
        local = size + (self._stub_bytes(path) if stub else 0)
        pack = Pack(
            path, index.session_id, index.groups, problem=index.problem, version=index.version, stub=stub,
            size_bytes=local, key_id=index.box.key_id if index.box else None,
        )  # fmt: skip
        if path.suffix == LIVE and index.manifest is not None:
            pack.info, _ = decode_manifest(index.manifest, size)
        self._enter(number, pack)

    @staticmethod
    def _stub_bytes(path: Path) -> int:
        return path.with_suffix(COLD if path.suffix == LIVE else COLD_CHUNKS).stat().st_size

    def _stub_beside(self, path: Path, stub_path: Path, index: PackIndex) -> Stub | None:
        """What lies in the cold store of a pack that is here. A stub that says something else of it counts for
        nothing, and its file gets the name that goes with the pack's: one of both was changed, and then it stopped."""
        try:
            found = coldstub.read(stub_path, self._vault)
        except (OSError, ValueError):
            return None
        is_same = found.index.groups == index.groups if found.index else found.stub.pack_bytes == path.stat().st_size
        if index.manifest is not None and not is_same:
            stub_path.rename(self.directory / (found.stub.key + GONE))
            return None
        if (path.suffix == LIVE) != (stub_path.suffix == COLD):
            stub_path.rename(path.with_suffix(COLD if path.suffix == LIVE else COLD_CHUNKS))
        return found.stub

    def add_stub(self, path: Path, number: int) -> None:
        """Enter a pack that lies in the cold store only; once more if its stub is another one now."""
        index = self._read(path, number)
        pack = Pack(path, index.session_id, index.groups, problem=index.problem, version=index.version)
        pack.key_id = index.box.key_id if index.box else None
        with contextlib.suppress(OSError, ValueError):
            pack.size_bytes = path.stat().st_size
            pack.stub = coldstub.read(path).stub
        if path.suffix == COLD and index.manifest is not None:
            pack.info, _ = decode_manifest(index.manifest, 0)
        self.size_bytes -= self.packs[number].size_bytes if number in self.packs else 0
        self._enter(number, pack)

    def _enter(self, number: int, pack: Pack) -> None:
        pack.firsts = [group.first for group in pack.groups]
        self.packs[number] = pack
        self.size_bytes += pack.size_bytes
        if pack.is_live:
            self.uses.expect(number)
        self._highest = max(self._highest, number)
        if pack.info is not None:
            self._said[_saying(pack.info)] = number
        for group in pack.groups:
            for index, digest in enumerate(group.hashes, group.first):
                self.places[digest] = (number, index)

    def _read(self, path: Path, number: int) -> PackIndex:
        if path.suffix in (COLD, COLD_CHUNKS):
            return coldstub.index_in(path, self._vault)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return PackIndex([], "", None, f"its file {path.name} is missing")
        except OSError as error:
            return PackIndex([], "", None, f"its file {path.name} cannot be read ({error.strerror})")
        try:
            return read_index(file, number, self._vault)
        except OSError as error:
            return PackIndex([], "", None, f"its file {path.name} cannot be read ({error.strerror})")
        finally:
            os.close(file)


def _saying(info: CheckpointInfo) -> tuple[str, Level, int, bytes]:
    return (info.session_id, info.level, info.sequence, info.state_hash)
