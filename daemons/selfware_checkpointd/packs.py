"""One pack file per checkpoint: the chunks that were new, the manifest, and an index to open it quickly.

All numbers are little-endian; chunks are numbered from 0 within their pack.

    header, 24 bytes + session id
      0   8  magic            53 46 57 50 41 43 4b 0a ("SFWPACK\\n")
      8   2  version          2 (1: the manifest's hash is that of the whole state)
     10   2  session id length
     12   8  pack number      the checkpoint's number
     20   4  CRC-32           of bytes 0..19 and the session id
     24      session id (UTF-8)

    group, as many as needed: up to 256 KiB (packed tight: 8 MiB) of neighbouring chunks compressed together
      0   4  mark             a5 53 46 47
      4   4  CRC-32           of the rest of the group head
      8   4  number of chunks
     12   4  first chunk      its number in this pack
     16   4  stored length    of the zstd frame
     20      per chunk: 32 bytes BLAKE3-256, 4 bytes length
             zstd frame of the chunks, one after the other

    index
             all group heads once more, then the manifest (zstd frame, see ``manifest``)

    trailer, 60 bytes
      0   8  index offset
      8   4  number of groups
     12   4  length of the group heads
     16   4  length of the manifest
     20  32  BLAKE3-256       of header, index and bytes 0..19 of this trailer
     52   8  magic            53 46 57 50 45 4e 44 0a ("SFWPEND\\n")

A pack that is encrypted has version 3. It differs in this:

    header, 34 bytes + session id
      8   2  version          3
     20   4  CRC-32           of bytes 0..19 and all that follows
     24      session id (UTF-8)
          2  version          that it would have if it were not encrypted
          8  key id           see ``vault``; the box is called "pack " and the number

    group
      0   4  mark             a5 53 46 45
     ..      as above, up to
     16   4  stored length    of the sealed frame
     20   8  key id
     28      sealed: per chunk 32 bytes BLAKE3-256, 4 bytes length; bytes 8..27 belong around it
             sealed: zstd frame of the chunks; "chunks" and bytes 8..15 belong around it

    index
             all group heads once more, then, sealed, the manifest; "manifest" and the header belong around it

So what can be told without the key: sizes, session id, checkpoint number, and whether all is there.

A chunk is believed only if its own hash fits. If the index is damaged the groups are found by their marks, so that
later checkpoints which share these chunks stay readable. Owns no file: works on bytes and an open descriptor.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from zlib import crc32

import zstandard
from blake3 import blake3

from selfware_checkpointd.frames import decompress, decompress_into
from selfware_checkpointd.pack_boxes import PackBoxes, around_frame, around_manifest
from selfware_checkpointd.vault import NO_VAULT, SEALED_MORE_BYTES, Box, Vault

MAGIC = b"SFWPACK\n"
END_MAGIC = b"SFWPEND\n"
VERSION = 2
SEALED_VERSION = 3
KNOWN_VERSIONS = (1, 2, SEALED_VERSION)
GROUP_MARK = b"\xa5SFG"
SEALED_GROUP_MARK = b"\xa5SFE"
GROUP_BYTES = 256 * 1024
HASH_BYTES = 32
_HEADER = struct.Struct("<8sHHQ")
_SEALED_HEADER_END = struct.Struct("<H8s")
_GROUP = struct.Struct("<III")
_SEALED_GROUP = struct.Struct("<III8s")
_CHUNK = struct.Struct("<32sI")
_TRAILER = struct.Struct("<QIII")
_CHECKSUM = struct.Struct("<I")
TRAILER_BYTES = _TRAILER.size + HASH_BYTES + len(END_MAGIC)
_GROUP_HEAD_BYTES = 8 + _GROUP.size


ReadAt = Callable[[int, int], bytes]
"""So many bytes of a pack from an offset, or fewer."""


class _ForeignError(ValueError):
    """A whole header, but not one of ours here."""


@dataclass(frozen=True, slots=True)
class Group:
    """Chunks that were compressed together, and where."""

    offset: int  # of the zstd frame
    stored_bytes: int
    first: int
    hashes: tuple[bytes, ...]
    lengths: tuple[int, ...]
    box: Box | None = field(default=None, compare=False)  # what opens the frame, if it is sealed


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What a pack holds; manifest is None and problem says why if its checkpoint cannot be read."""

    groups: list[Group]
    session_id: str
    manifest: bytes | None
    problem: str
    version: int = VERSION
    is_whole: bool = True  # False: it looks as a save does that was cut off
    box: Box | None = None  # what its parts are sealed with, if they are


def encode_header(number: int, session_id: str, version: int = VERSION, box: Box | None = None) -> bytes:
    """What a pack begins with."""
    rest = session_id.encode()
    head = _HEADER.pack(MAGIC, version if box is None else SEALED_VERSION, len(rest), number)
    if box is not None:
        rest += _SEALED_HEADER_END.pack(version, box.key_id)
    return head + _CHECKSUM.pack(crc32(rest, crc32(head))) + rest


def encode_group(
    chunks: Sequence[tuple[bytes, bytes | memoryview]],
    first: int,
    compressor: zstandard.ZstdCompressor,
    box: Box | None = None,
) -> tuple[bytes, bytes]:
    """(head, zstd frame) of some (hash, data) chunks."""
    frame = compressor.compress(b"".join(data for _, data in chunks))
    hashes, lengths = tuple(digest for digest, _ in chunks), tuple(len(data) for _, data in chunks)
    return finish_group(Group(0, 0, first, hashes, lengths, box), frame)


def finish_group(group: Group, frame: bytes) -> tuple[bytes, bytes]:
    """(head, frame as it is stored) of a group whose offset and stored length need not be known yet."""
    stored = frame if group.box is None else group.box.seal(frame, around_frame(len(group.hashes), group.first))
    return encode_group_head(replace(group, stored_bytes=len(stored))), stored


def encode_group_head(group: Group) -> bytes:
    """What stands before the group's frame, which lies there as it is stored already; its offset is not said."""
    table = b"".join(map(_CHUNK.pack, group.hashes, group.lengths))
    count, box = len(group.hashes), group.box
    if box is None:
        rest = _GROUP.pack(count, group.first, group.stored_bytes) + table
        return GROUP_MARK + _CHECKSUM.pack(crc32(rest)) + rest
    rest = _SEALED_GROUP.pack(count, group.first, group.stored_bytes, box.key_id)
    rest += box.seal(table, rest)
    return SEALED_GROUP_MARK + _CHECKSUM.pack(crc32(rest)) + rest


def encode_end(
    header: bytes, heads: Sequence[bytes], manifest: bytes, index_offset: int, box: Box | None = None
) -> bytes:
    """Index and trailer."""
    joined = b"".join(heads)
    if box is not None:
        manifest = box.seal(manifest, around_manifest(header))
    numbers = _TRAILER.pack(index_offset, len(heads), len(joined), len(manifest))
    digest = blake3(header + joined + manifest + numbers).digest()
    return b"".join((joined, manifest, numbers, digest, END_MAGIC))


def read_index(file: int, number: int, vault: Vault = NO_VAULT) -> PackIndex:
    """The pack's index from its end; if that is damaged, from its group marks. KeyMissingError if it is encrypted with
    a key that the vault has not: that says nothing about damage."""
    size, boxes = os.fstat(file).st_size, PackBoxes(number, vault)
    try:
        header, index = _read_header(partial(os.pread, file), number, boxes)
    except _ForeignError as error:
        return _salvage(file, size, boxes, PackIndex([], "", None, str(error)))
    except ValueError as error:
        return _salvage(file, size, boxes, PackIndex([], "", None, str(error), is_whole=False))
    try:
        return _read_end(partial(os.pread, file), size, header, boxes, index)
    except ValueError as error:
        broken = replace(index, problem=str(error), version=VERSION, is_whole=index.version == 1)
        return _salvage(file, size, boxes, broken)


def index_of_ends(read: ReadAt, size: int, number: int, vault: Vault = NO_VAULT) -> PackIndex:
    """The index of a pack of this size of which only the first and the last bytes are at hand; ValueError if they are
    damaged."""
    boxes = PackBoxes(number, vault)
    header, index = _read_header(read, number, boxes)
    return _read_end(read, size, header, boxes, index)


def ends_of(file: int) -> tuple[bytes, bytes]:
    """A whole pack's header, and its index with the trailer: what ``index_of_ends`` needs; ValueError if damaged."""
    size = os.fstat(file).st_size
    header_bytes, tail_at = ends_at(partial(os.pread, file), size)
    return os.pread(file, header_bytes, 0), os.pread(file, size - tail_at, tail_at)


def ends_at(read: ReadAt, size: int) -> tuple[int, int]:
    """How long a pack's header is, and where its index begins; ValueError if they cannot be."""
    if size < _HEADER.size + 4 + TRAILER_BYTES:
        raise ValueError("it is too short")
    _, version, name_bytes, _ = _HEADER.unpack(read(_HEADER.size, 0))
    header_bytes = _HEADER.size + 4 + name_bytes + (_SEALED_HEADER_END.size if version == SEALED_VERSION else 0)
    (offset,) = struct.unpack("<Q", read(8, size - TRAILER_BYTES))
    if not header_bytes <= offset <= size - TRAILER_BYTES:
        raise ValueError("its end is damaged")
    return header_bytes, offset


def is_ruined(file: int, number: int, vault: Vault = NO_VAULT) -> bool:
    """Is the pack's own record damaged, and not merely of another version or number? OSError if it cannot be read,
    KeyMissingError if it is encrypted with a key that is not here."""
    try:
        _read_header(partial(os.pread, file), number, PackBoxes(number, vault))
    except _ForeignError:
        return False
    except ValueError:
        return True
    return read_index(file, number, vault).manifest is None


def unpack_group(file: int, group: Group) -> list[bytes | None]:
    """The group's chunks; None for each that is not what its hash says. OSError if the file cannot be read."""
    return unpack_frame(os.pread(file, group.stored_bytes, group.offset), group)


def unpack_frame(stored: bytes | memoryview, group: Group) -> list[bytes | None]:
    """The same from the frame at hand, as it is stored."""
    frame = _frame_of(group, stored)
    raw = None if frame is None else decompress(frame, sum(group.lengths))
    if raw is None:
        return [None] * len(group.hashes)
    chunks: list[bytes | None] = []
    start = 0
    for digest, length in zip(group.hashes, group.lengths, strict=True):
        chunk = raw[start : start + length]
        chunks.append(chunk if blake3(chunk).digest() == digest else None)
        start += length
    return chunks


def raw_of(group: Group, stored: bytes | memoryview, into: memoryview) -> memoryview | None:
    """A group's chunks, one after the other and not yet checked, from what is stored of them; None if that is
    damaged. ``into``: memory that is large enough."""
    frame, raw = _frame_of(group, stored), into[: sum(group.lengths)]
    return raw if frame is not None and decompress_into(frame, raw) else None


def _frame_of(group: Group, stored: bytes | memoryview) -> bytes | memoryview | None:
    return stored if group.box is None else group.box.open(stored, around_frame(len(group.hashes), group.first))


def heads_are_right(file: int, groups: Sequence[Group]) -> bool:
    """Does each group's head stand before its frame, as the index says? They are what is left if the index is lost."""
    for group in groups:
        shape = _GROUP.size if group.box is None else _SEALED_GROUP.size + SEALED_MORE_BYTES
        length = 8 + shape + len(group.hashes) * _CHUNK.size
        at = group.offset - length
        found = _decode_head(os.pread(file, length, at), 0, at, PackBoxes.only(group.box)) if at >= 0 else None
        if found is None or found[0] != group:
            return False
    return True


def _read_header(read: ReadAt, number: int, boxes: PackBoxes) -> tuple[bytes, PackIndex]:
    """The header, and what it says."""
    head = read(_HEADER.size + 4, 0)
    if len(head) < _HEADER.size + 4 or head[:8] != MAGIC:
        raise ValueError("its header is damaged")
    _, version, length, found_number = _HEADER.unpack_from(head)
    rest = read(length + (_SEALED_HEADER_END.size if version == SEALED_VERSION else 0), len(head))
    if _CHECKSUM.pack(crc32(rest, crc32(head[:-4]))) != head[-4:]:
        raise ValueError("its header is damaged")
    if version not in KNOWN_VERSIONS:
        raise _ForeignError(f"it has format version {version} and this Selfware reads versions up to {SEALED_VERSION}")
    if found_number != number:
        raise _ForeignError(f"the file holds checkpoint {found_number}")
    box = None
    if version == SEALED_VERSION:
        version, key_id = _SEALED_HEADER_END.unpack_from(rest, length)
        box = boxes.of(key_id)
    return head + rest, PackIndex([], rest[:length].decode(), None, "", version, box=box)


def _read_end(read: ReadAt, size: int, header: bytes, boxes: PackBoxes, index: PackIndex) -> PackIndex:
    trailer = read(TRAILER_BYTES, max(0, size - TRAILER_BYTES))
    if len(trailer) < TRAILER_BYTES or trailer[-8:] != END_MAGIC:
        raise ValueError("its end is missing or damaged")
    numbers, digest = trailer[: _TRAILER.size], trailer[_TRAILER.size : _TRAILER.size + HASH_BYTES]
    offset, count, heads_bytes, manifest_bytes = _TRAILER.unpack(numbers)
    if offset + heads_bytes + manifest_bytes + TRAILER_BYTES != size:
        raise ValueError("its end is damaged")
    data = read(heads_bytes + manifest_bytes, offset)
    if blake3(header + data + numbers).digest() != digest:
        raise ValueError("its index does not match its hash")
    groups, data_at, at = [], len(header), 0
    for _ in range(count):
        found = _decode_head(data, at, data_at, boxes)
        if found is None:
            raise ValueError("its index is damaged")
        group, head_bytes = found
        groups.append(group)
        data_at += head_bytes + group.stored_bytes
        at += head_bytes
    manifest: bytes | None = data[heads_bytes:]
    if index.box is not None:
        manifest = index.box.open(data[heads_bytes:], around_manifest(header))
    try:
        return replace(index, groups=groups, manifest=zstandard.ZstdDecompressor().decompress(manifest or b""))
    except zstandard.ZstdError:
        raise ValueError("its manifest is damaged") from None


def _salvage(file: int, size: int, boxes: PackBoxes, index: PackIndex) -> PackIndex:
    """Every group whose head is whole, found by its mark."""
    data = os.pread(file, size, 0)
    groups: list[Group] = []
    seen: set[int] = set()
    at = _next_mark(data, 0)
    while at >= 0:
        found = _decode_head(data, at, at, boxes)
        end = found[0].offset + found[0].stored_bytes if found else 0
        if found is not None and end <= size:
            # the index repeats every head at the end of the file: only the first one stands before its frame
            if found[0].first not in seen:
                groups.append(found[0])
                seen.add(found[0].first)
            at = _next_mark(data, end)
        else:
            at = _next_mark(data, at + 1)
    return replace(index, groups=groups)


def _next_mark(data: bytes, start: int) -> int:
    places = [at for mark in (GROUP_MARK, SEALED_GROUP_MARK) if (at := data.find(mark, start)) >= 0]
    return min(places, default=-1)


def _decode_head(data: bytes, at: int, file_at: int, boxes: PackBoxes) -> tuple[Group, int] | None:
    """The group whose head is at this place of data, and the head's length; file_at is where it (and then its frame)
    lies in the file."""
    is_sealed = data[at : at + 4] == SEALED_GROUP_MARK
    shape = _SEALED_GROUP if is_sealed else _GROUP
    table_at = at + 8 + shape.size
    if data[at : at + 4] not in (GROUP_MARK, SEALED_GROUP_MARK) or table_at > len(data):
        return None
    count, first, stored_bytes = _GROUP.unpack_from(data, at + 8)
    end = table_at + count * _CHUNK.size + (SEALED_MORE_BYTES if is_sealed else 0)
    if end > len(data) or _CHECKSUM.pack(crc32(data[at + 8 : end])) != data[at + 4 : at + 8]:
        return None
    table: bytes | None = data[table_at:end]
    box = None
    if is_sealed:
        box = boxes.of(data[table_at - 8 : table_at])
        table = box.open(data[table_at:end], data[at + 8 : table_at])
        if table is None:
            return None
    chunks = list(_CHUNK.iter_unpack(table or b""))
    hashes = tuple(chunk[0] for chunk in chunks)
    lengths = tuple(chunk[1] for chunk in chunks)
    return Group(file_at + end - at, stored_bytes, first, hashes, lengths, box), end - at
