"""Packs tighter what was packed in a hurry: larger groups, a higher compression level, and no chunk that nobody uses.

A save must be quick, so it compresses lightly, in small groups. Later, a little at a time, packs are written once more
beside themselves and renamed over: chunks keep their numbers, so nothing that refers to them changes, and whatever dies
when, there is one whole file. A pack with damage in it is left alone.

Decides which packs are worth it, encodes them anew; the store puts them in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import zstandard

from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.manifest import Run
from selfware_checkpointd.packing import compressor
from selfware_checkpointd.packs import Group, encode_end, encode_group, encode_header, read_index, unpack_group

TIGHT_GROUP_BYTES = 8 * 1024 * 1024
DEAD_SHARE = 0.5  # a pack of which less is dead is not worth writing again
Chunk = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Repacked:
    """A pack's new bytes."""

    pieces: list[bytes]
    groups: list[Group]
    raw_bytes: int

    def holds(self, used: Iterable[Run]) -> bool:
        """Is everything in it that is used?"""
        kept = {index for group in self.groups for index in range(group.first, group.first + len(group.hashes))}
        return all(kept.issuperset(range(run.first, run.first + run.count)) for run in used)


def used_chunks(runs: Iterable[Run]) -> dict[int, list[Run]]:
    """Per pack, what living checkpoints use of it."""
    used: dict[int, list[Run]] = {}
    for run in runs:
        used.setdefault(run.pack, []).append(run)
    return used


def worth_repacking(packs: Mapping[int, Pack], used: Mapping[int, list[Run]]) -> Iterator[int]:
    """The numbers of packs that would become smaller, oldest first."""
    for number, pack in sorted(packs.items()):
        if pack.problem or not pack.groups or not pack.is_here:
            continue
        raw = sum(sum(group.lengths) for group in pack.groups)
        if is_loose(pack) or (not pack.is_live and raw and _dead(pack, used.get(number, ())) / raw > DEAD_SHARE):
            yield number


def is_loose(pack: Pack) -> bool:
    """Was it packed in a hurry, and not again since?"""
    raw = sum(sum(group.lengths) for group in pack.groups)
    return len(pack.groups) > 1 and raw / len(pack.groups) < TIGHT_GROUP_BYTES / 2


def repack(pack: Pack, number: int, used: Iterable[Run], level: int) -> Repacked | None:
    """The pack's bytes, packed tight; None if it is damaged. A living checkpoint keeps all of its chunks: they are
    what the next save of the same bytes finds."""
    wanted = None if pack.is_live else {index for run in used for index in range(run.first, run.first + run.count)}
    header = encode_header(number, pack.session_id, pack.version)
    pieces, groups, heads = [header], list[Group](), list[bytes]()
    offset, raw = len(header), 0
    tight = compressor(level)
    try:
        file = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        manifest = read_index(file, number).manifest
        if manifest is None:
            return None
        for first, chunks in _neighbours(file, pack, wanted):
            head, frame = encode_group(chunks, first, tight)
            hashes, lengths = tuple(digest for digest, _ in chunks), tuple(len(data) for _, data in chunks)
            groups.append(Group(offset + len(head), len(frame), first, hashes, lengths))
            heads.append(head)
            pieces += (head, frame)
            offset += len(head) + len(frame)
            raw += sum(lengths)
    except ValueError:
        return None
    finally:
        os.close(file)
    pieces.append(encode_end(header, heads, zstandard.compress(manifest, 3), offset))
    return Repacked(pieces, groups, raw)


def place(pack: Pack, repacked: Repacked, size: int) -> Pack:
    """The catalog's entry for the new file."""
    info = replace(pack.info, stored_bytes=size) if pack.info else None
    return replace(pack, groups=repacked.groups, info=info, firsts=[group.first for group in repacked.groups])


def _dead(pack: Pack, used: Iterable[Run]) -> int:
    alive = {index for run in used for index in range(run.first, run.first + run.count)}
    return sum(
        length for group in pack.groups for index, length in enumerate(group.lengths, group.first) if index not in alive
    )


def _neighbours(file: int, pack: Pack, wanted: set[int] | None) -> Iterator[tuple[int, list[Chunk]]]:
    """New groups: chunks whose numbers follow one another; ValueError if one is damaged."""
    first, chunks, size = 0, list[Chunk](), 0
    for group in pack.groups:
        data = unpack_group(file, group)
        for index, (digest, chunk) in enumerate(zip(group.hashes, data, strict=True), group.first):
            if wanted is not None and index not in wanted:
                continue
            if chunk is None:
                raise ValueError(f"chunk {index} is damaged")
            if chunks and (index != first + len(chunks) or size + len(chunk) > TIGHT_GROUP_BYTES):
                yield first, chunks
                chunks, size = [], 0
            if not chunks:
                first = index
            chunks.append((digest, chunk))
            size += len(chunk)
    if chunks:
        yield first, chunks
