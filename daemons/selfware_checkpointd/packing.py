"""Writes a checkpoint: what is new of it, compressed, as one pack with one fdatasync.

The pack's file was made ahead, empty, under its final name, so that a save needs no rename and no second sync.

    ckpt-00000007.pack   complete
    ckpt-00000008.pack   empty: the next one

When a pack is durable the file of the next one is made, before anybody is told. So a pack that is not whole and has no
next one was being written when everything stopped, and nobody was told of it: it is emptied. One that has a next one
was complete once: it is damaged, and says so.

Owns the next pack's file. Not thread-safe: the store holds a lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import zstandard

from selfware_checkpointd.files import Sync, sync_directory, write_all
from selfware_checkpointd.manifest import CheckpointInfo, Run, encode_manifest
from selfware_checkpointd.packs import GROUP_BYTES, Group, encode_end, encode_group, encode_header

COMPRESSION_LEVEL = 3

Chunk = tuple[bytes, memoryview]
"""BLAKE3-256, data."""


class Packer:
    """Owns the file of the pack that comes next, and the thread that makes its name durable."""

    def __init__(self, path_of: Callable[[int], Path], sync: Sync) -> None:
        self._path_of = path_of
        self._sync = sync
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=False)
        self._names = ThreadPoolExecutor(1, "pack-names")
        self._named: Future[None] | None = None
        self._ready = -1

    def make_next(self, number: int) -> None:
        """Make the empty file of this pack; its name is durable a moment later, at the latest when it is written."""
        path = self._path_of(number)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
        self._ready = number
        self._named = self._names.submit(sync_directory, path.parent)

    def write(
        self, draft: CheckpointInfo, fresh: list[Chunk], runs: list[Run], check: Callable[[], None] | None
    ) -> tuple[CheckpointInfo, list[Group]]:
        """Durable on return, or undone. ``check`` is called when all but the last bytes are written."""
        header = encode_header(draft.number, draft.session_id)
        groups, heads, pieces = self._compress(fresh, len(header))
        manifest = self._compressor.compress(encode_manifest(draft, runs))
        body = [header, *pieces]
        end = encode_end(header, heads, manifest, sum(map(len, body)))
        if self._ready != draft.number:
            self.make_next(draft.number)
        if self._named is not None:
            self._named.result()
        file = os.open(self._path_of(draft.number), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(file, 0)  # what a save left that failed in the middle and could not be undone
            size = write_all(file, [b"".join(body)])
            if check is not None:
                check()
            size += write_all(file, [end])
            self._sync(file)
        except BaseException:
            os.ftruncate(file, 0)
            raise
        finally:
            os.close(file)
        try:
            self.make_next(draft.number + 1)
        except OSError:
            self._ready = -1  # this one is durable all the same; the next save tries again, and says what is wrong
        return replace(draft, stored_bytes=size), groups

    def close(self) -> None:
        """Wait until the last name is durable."""
        self._names.shutdown()

    def _compress(self, fresh: list[Chunk], offset: int) -> tuple[list[Group], list[bytes], list[bytes]]:
        groups: list[Group] = []
        heads: list[bytes] = []
        pieces: list[bytes] = []
        first = 0
        while first < len(fresh):
            count, size = 1, len(fresh[first][1])
            while first + count < len(fresh) and size + len(fresh[first + count][1]) <= GROUP_BYTES:
                size += len(fresh[first + count][1])
                count += 1
            chunks = fresh[first : first + count]
            head, frame = encode_group(chunks, first, self._compressor)
            hashes, lengths = tuple(digest for digest, _ in chunks), tuple(len(data) for _, data in chunks)
            groups.append(Group(offset + len(head), len(frame), first, hashes, lengths))
            heads.append(head)
            pieces += (head, frame)
            offset += len(head) + len(frame)
            first += count
        return groups, heads, pieces
