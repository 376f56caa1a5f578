"""Packs tighter what was packed in a hurry: larger groups, a higher compression level, and no chunk that nobody uses.

So it is, too, that packs become encrypted which were written before encryption was switched on, or with an older key.
What is encrypted stays so when it is switched off again.

A save must be quick, so it compresses lightly, in small groups. Later, a little at a time, packs are written once more
beside themselves and renamed over: chunks keep their numbers, so nothing that refers to them changes, and whatever dies
when, there is one whole file. A pack with damage in it is left alone.

Decides which packs are worth it, encodes them anew; the store puts them in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import zstandard

from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.chunk_uses import ChunkUses
from selfware_checkpointd.pack_boxes import box_name
from selfware_checkpointd.packs import (
    Group,
    encode_end,
    encode_group,
    encode_header,
    read_index,
    unpack_group,
)
from selfware_checkpointd.vault import NO_VAULT, Vault

TIGHT_GROUP_BYTES = 8 * 1024 * 1024
DEAD_SHARE = 0.5  # a pack of which less is dead is not worth writing again
Chunk = tuple[bytes, bytes]


class UnreadablePackError(Exception):
    """A pack has damage in it, or cannot be read now: it stays as it is. ``lost`` are chunks that are damaged."""

    def __init__(self, lost: Sequence[int] = ()) -> None:
        super().__init__()
        self.lost = lost


class Repacking:
    """A pack's new bytes, made as they are asked for: a large pack is never in memory as a whole.

    A living checkpoint keeps all of its chunks: they are what the next save of the same bytes finds.
    """

    def __init__(self, pack: Pack, number: int, alive: set[int], level: int, vault: Vault = NO_VAULT) -> None:
        self._pack = pack
        self._number = number
        self._wanted = None if pack.is_live else alive
        # its own, and not the thread's: it takes some 20 MB, and is wanted once a minute
        self._tight = zstandard.ZstdCompressor(level=level, write_checksum=False)
        self._vault = vault
        self.groups: list[Group] = []
        self.raw_bytes = 0
        self.key_id: bytes | None = None

    def pieces(self, before_each: Callable[[], None]) -> Iterator[bytes]:
        """All of it, once; then what is said of it here is complete. Calls ``before_each`` before it compresses a
        group. Raises UnreadablePackError in the middle."""
        try:
            file = os.open(self._pack.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield from self._pieces(file, before_each)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:  # a bad sector keeps nobody from packing the others
            raise UnreadablePackError from error

    def holds(self, alive: Iterable[int]) -> bool:
        """Is everything in it that is used?"""
        kept = {index for group in self.groups for index in range(group.first, group.first + len(group.hashes))}
        return kept.issuperset(alive)

    def _pieces(self, file: int, before_each: Callable[[], None]) -> Iterator[bytes]:
        index = read_index(file, self._number, self._vault)
        if index.manifest is None:
            raise ValueError("its manifest is damaged")
        box = self._vault.sealing(box_name(self._number)) or index.box
        self.key_id = box.key_id if box else None
        header = encode_header(self._number, self._pack.session_id, self._pack.version, box)
        yield header
        heads, offset = list[bytes](), len(header)
        for first, chunks in _neighbours(file, self._pack, self._wanted):
            before_each()
            head, frame = encode_group(chunks, first, self._tight, box)
            hashes, lengths = tuple(digest for digest, _ in chunks), tuple(len(data) for _, data in chunks)
            self.groups.append(Group(offset + len(head), len(frame), first, hashes, lengths, box))
            heads.append(head)
            yield head
            yield frame
            offset += len(head) + len(frame)
            self.raw_bytes += sum(lengths)
        yield encode_end(header, heads, zstandard.compress(index.manifest, 3), offset, box)


def worth_repacking(
    packs: Mapping[int, Pack], uses: ChunkUses, dead_share: float, vault: Vault = NO_VAULT
) -> Iterator[int]:
    """The numbers of packs that would become smaller, or be encrypted as they should be; oldest first."""
    for number, pack in sorted(packs.items()):
        if pack.problem or not pack.is_here:
            continue
        if vault.key_id not in (None, pack.key_id):
            yield number
            continue
        if not pack.groups:
            continue
        raw = sum(sum(group.lengths) for group in pack.groups)
        if is_loose(pack) or (not pack.is_live and raw and _dead(pack, number, uses) / raw > dead_share):
            yield number


def is_loose(pack: Pack) -> bool:
    """Was it packed in a hurry, and not again since? That is so if neighbours could be packed together. Between those
    that dead chunks left a gap is none: they stay as they are, or they would be packed anew each time."""
    size, then = TIGHT_GROUP_BYTES, -1
    for group in pack.groups:
        raw = sum(group.lengths)
        if group.first == then and size + raw <= TIGHT_GROUP_BYTES:
            return True
        size, then = raw, group.first + len(group.hashes)
    return False


def place(pack: Pack, repacked: Repacking, size: int) -> Pack:
    """The catalog's entry for the new file."""
    info = replace(pack.info, stored_bytes=size) if pack.info else None
    firsts = [group.first for group in repacked.groups]
    return replace(pack, groups=repacked.groups, info=info, firsts=firsts, key_id=repacked.key_id, size_bytes=size)


def _dead(pack: Pack, number: int, uses: ChunkUses) -> int:
    alive = uses.alive(number, pack.numbers)
    return sum(
        length for group in pack.groups for index, length in enumerate(group.lengths, group.first) if index not in alive
    )


def _neighbours(file: int, pack: Pack, wanted: set[int] | None) -> Iterator[tuple[int, list[Chunk]]]:
    """New groups: chunks whose numbers follow one another; UnreadablePackError if one is damaged."""
    first, chunks, size = 0, list[Chunk](), 0
    for group in pack.groups:
        data = unpack_group(file, group)
        lost = [index for index, chunk in enumerate(data, group.first) if chunk is None]
        if lost and (wanted is None or not wanted.isdisjoint(lost)):
            raise UnreadablePackError(lost)
        for index, (digest, chunk) in enumerate(zip(group.hashes, data, strict=True), group.first):
            if chunk is None or (wanted is not None and index not in wanted):
                continue
            if chunks and (index != first + len(chunks) or size + len(chunk) > TIGHT_GROUP_BYTES):
                yield first, chunks
                chunks, size = [], 0
            if not chunks:
                first = index
            chunks.append((digest, chunk))
            size += len(chunk)
    if chunks:
        yield first, chunks
