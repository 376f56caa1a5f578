"""Writes a damaged pack anew, from what is right of it and what was found elsewhere.

Chunks keep their numbers and their order, so nothing that refers to them changes. A group of which a chunk is found
nowhere stays as it is: its hashes must stay known, for a later save of the same bytes heals it. Pure, but for reading
the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import zstandard

from selfware_checkpointd.catalog import Pack
from selfware_checkpointd.packing import compressor
from selfware_checkpointd.packs import Group, encode_end, encode_group, encode_group_head, encode_header
from selfware_checkpointd.vault import Box

Find = Callable[[bytes], bytes | None]
"""The chunk with this hash from anywhere else."""


@dataclass(frozen=True, slots=True)
class Mended:
    """A pack's new bytes, and which of its chunks (by number) were found nowhere."""

    pieces: list[bytes]
    groups: list[Group]
    lost: frozenset[int]
    found: int


def mend(
    pack: Pack,
    number: int,
    manifest: bytes,
    frames: Callable[[Group], bytes],
    good: Mapping[int, list[bytes | None]],
    find: Find,
    box: Box | None = None,
) -> Mended:
    """``frames`` reads a group as it is stored; ``good`` has, by its first chunk, what was right of each damaged group;
    ``manifest`` is as it was encoded."""
    header = encode_header(number, pack.session_id, pack.version, box)
    pieces, groups, heads, lost = [header], list[Group](), list[bytes](), set[int]()
    offset, found = len(header), 0
    for group in pack.groups:
        frame, group_box = b"", group.box
        if group.first in good:
            chunks, missing = _completed(group, good[group.first], find)
            lost |= missing
            if not missing:
                found += sum(chunk is None for chunk in good[group.first])
                head, frame = encode_group(chunks, group.first, compressor(), box)
                group_box = box
        if not frame:
            frame = frames(group)
            head = encode_group_head(group)
        groups.append(replace(group, box=group_box, offset=offset + len(head), stored_bytes=len(frame)))
        heads.append(head)
        pieces += (head, frame)
        offset += len(head) + len(frame)
    pieces.append(encode_end(header, heads, zstandard.compress(manifest, 3), offset, box))
    return Mended(pieces, groups, frozenset(lost), found)


def _completed(group: Group, known: list[bytes | None], find: Find) -> tuple[list[tuple[bytes, bytes]], set[int]]:
    chunks, missing = list[tuple[bytes, bytes]](), set[int]()
    for index, (digest, chunk) in enumerate(zip(group.hashes, known, strict=True), group.first):
        data = chunk if chunk is not None else find(digest)
        if data is None:
            missing.add(index)
        else:
            chunks.append((digest, data))
    return chunks, missing
