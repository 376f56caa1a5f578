"""Writes a checkpoint: what is new of it, compressed, as one pack with one fdatasync.

The pack's file was made ahead, empty, under its final name, so that a save needs no rename and no second sync.

    ckpt-00000007.pack   complete
    ckpt-00000008.pack   empty: the next one

When a pack is durable the file of the next one is made, before anybody is told. So a pack that is not whole and has no
next one was being written when everything stopped, and nobody was told of it: it is emptied. One that has a next one
was complete once: it is damaged, and says so.

Large saves are compressed by two threads while the next chunks are still being cut, and no more than a few groups are
in memory; what is known earlier is compressed earlier, see ``ahead``. Owns the next pack's file. Not thread-safe: the
store holds a lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import zstandard

from selfware_checkpointd.ahead import Ahead
from selfware_checkpointd.errors import StoreFullError
from selfware_checkpointd.files import Sync, sync_directory, write_all
from selfware_checkpointd.manifest import CheckpointInfo, Run, encode_manifest
from selfware_checkpointd.pack_boxes import box_name
from selfware_checkpointd.packs import GROUP_BYTES, Group, encode_end, encode_header, finish_group
from selfware_checkpointd.room import Room
from selfware_checkpointd.vault import NO_VAULT, Vault

COMPRESSION_LEVEL = 1  # in a hurry; packs are packed tighter later, see repacking
COMPRESSING_THREADS = 2
MOST_IN_FLIGHT = 4

_compressors = threading.local()  # one ZstdCompressor used by two threads at once crashes


def compressor(level: int = COMPRESSION_LEVEL) -> zstandard.ZstdCompressor:
    """This thread's own."""
    kept: dict[int, zstandard.ZstdCompressor] = _compressors.__dict__.setdefault("by_level", {})
    if level not in kept:
        kept[level] = zstandard.ZstdCompressor(level=level, write_checksum=False)
    return kept[level]


def compress(pieces: Sequence[bytes | memoryview]) -> bytes:
    """One frame of all pieces; in any thread."""
    return compressor().compress(b"".join(pieces))


class Packer:
    """Owns the file of the pack that comes next, and the threads that compress and make names durable."""

    def __init__(self, path_of: Callable[[int], Path], sync: Sync, room: Room, vault: Vault = NO_VAULT) -> None:
        self.path_of = path_of
        self.room = room
        self.sync = sync
        self.vault = vault
        self.threads = ThreadPoolExecutor(COMPRESSING_THREADS, "compress")
        self._names = ThreadPoolExecutor(1, "pack-names")
        self._named: Future[None] | None = None
        self._ready = -1

    def make_next(self, number: int) -> None:
        """Make the empty file of this pack; its name is durable a moment later, at the latest when it is written."""
        path = self.path_of(number)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        self._ready = number
        self._named = self._names.submit(sync_directory, path.parent)

    def ahead(self) -> Ahead:
        """For chunks of a save that begins soon."""
        return Ahead(self.threads, compress)

    def begin(self, number: int, session_id: str, ahead: Ahead | None = None) -> PackDraft:
        """A pack to fill; OSError if there is no room for its file. Finish it or undo it."""
        if self._ready != number:
            self.make_next(number)
        named, self._named = self._named, None
        try:
            if named is not None:
                named.result()
        except OSError:
            self._ready = -1  # the next try makes its name durable
            raise
        file = os.open(self.path_of(number), os.O_WRONLY | os.O_CLOEXEC)
        return PackDraft(self, file, number, session_id, ahead or self.ahead())

    def finished(self, number: int) -> None:
        """This pack is durable: make the next one's file. If that fails the next save tries, and says what is wrong."""
        with contextlib.suppress(OSError):
            self.make_next(number + 1)

    def close(self) -> None:
        """Wait until the last name is durable."""
        self._names.shutdown()
        self.threads.shutdown()


class PackDraft:
    """One pack while it is written: chunks go in, groups of them come out of the compressor and go to the file."""

    def __init__(self, packer: Packer, file: int, number: int, session_id: str, ahead: Ahead) -> None:
        self._packer = packer
        self._ahead = ahead
        self._file = file
        self._number = number
        self._box = packer.vault.sealing(box_name(number))
        self._header = encode_header(number, session_id, box=self._box)
        self._unwritten = [self._header]
        self._offset = len(self._header)
        self._waiting: list[tuple[bytes, bytes]] = []
        self._waiting_bytes = 0
        self._count = 0
        self._flying: deque[tuple[Group, Future[bytes]]] = deque()
        self._heads: list[bytes] = []
        self.groups: list[Group] = []
        os.ftruncate(file, 0)  # what a save left that failed in the middle and could not be undone

    def add(self, digest: bytes, data: memoryview) -> int:
        """Take a chunk in, as a copy; its number in this pack."""
        if self._waiting and (self._waiting_bytes + len(data) > GROUP_BYTES or self._ahead.begins_with(digest)):
            self._fly()
        self._waiting.append((digest, bytes(data)))
        self._waiting_bytes += len(data)
        self._count += 1
        return self._count - 1

    def finish(self, info: CheckpointInfo, runs: list[Run], check: Callable[[], None] | None) -> CheckpointInfo:
        """Durable on return. ``check`` is called when all but the last bytes are written; what it raises is raised."""
        if self._waiting:
            if self._flying:
                self._fly()
            else:
                group, pieces = self._group()
                ready = self._ahead.frame(group.hashes)
                self._land(group, compress(pieces) if ready is None else ready.result())
        while self._flying:
            self._land_next()
        self._ahead.drop()
        manifest = compressor().compress(encode_manifest(info, runs))
        end = encode_end(self._header, self._heads, manifest, self._offset, self._box)
        self._write()
        self._refuse_above(self._offset + len(end))
        if check is not None:
            check()
        size = self._offset + write_all(self._file, [end])
        self._packer.sync(self._file)
        os.close(self._file)
        self._packer.finished(self._number)
        return replace(info, stored_bytes=size)

    def undo(self) -> None:
        """Nothing of it is left."""
        self._ahead.drop()
        for _, future in self._flying:
            future.cancel()
        try:
            os.ftruncate(self._file, 0)
        finally:
            os.close(self._file)

    def _group(self) -> tuple[Group, list[bytes]]:
        chunks, self._waiting, self._waiting_bytes = self._waiting, [], 0
        hashes, lengths = tuple(digest for digest, _ in chunks), tuple(len(data) for _, data in chunks)
        group = Group(0, 0, self._count - len(chunks), hashes, lengths, self._box)
        return group, [data for _, data in chunks]

    def _fly(self) -> None:
        """Have what waits compressed by another thread; write what is ready."""
        group, pieces = self._group()
        self._flying.append((group, self._ahead.frame(group.hashes) or self._packer.threads.submit(compress, pieces)))
        while len(self._flying) > MOST_IN_FLIGHT or (self._flying and self._flying[0][1].done()):
            self._land_next()

    def _land_next(self) -> None:
        group, future = self._flying.popleft()
        self._land(group, future.result())

    def _land(self, group: Group, frame: bytes) -> None:
        head, stored = finish_group(group, frame)
        self.groups.append(replace(group, offset=self._offset + len(head), stored_bytes=len(stored)))
        self._heads.append(head)
        self._unwritten += (head, stored)
        self._offset += len(head) + len(stored)
        if len(self._unwritten) > MOST_IN_FLIGHT:
            self._write()

    def _refuse_above(self, size: int) -> None:
        """The limit holds while a save is under way, too."""
        if size > (most := self._packer.room.most_bytes()):
            raise StoreFullError(limit=self._packer.room.limit_bytes, left=max(0, most), size=size)

    def _write(self) -> None:
        self._refuse_above(self._offset)
        write_all(self._file, [b"".join(self._unwritten)])
        self._unwritten = []
