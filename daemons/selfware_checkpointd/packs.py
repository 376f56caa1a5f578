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

A chunk is believed only if its own hash fits. If the index is damaged the groups are found by their marks, so that
later checkpoints which share these chunks stay readable. Owns no file: works on bytes and an open descriptor.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from zlib import crc32

import zstandard
from blake3 import blake3

MAGIC = b"SFWPACK\n"
END_MAGIC = b"SFWPEND\n"
VERSION = 2
KNOWN_VERSIONS = (1, 2)
GROUP_MARK = b"\xa5SFG"
GROUP_BYTES = 256 * 1024
HASH_BYTES = 32
_HEADER = struct.Struct("<8sHHQ")
_GROUP = struct.Struct("<III")
_CHUNK = struct.Struct("<32sI")
_TRAILER = struct.Struct("<QIII")
_CHECKSUM = struct.Struct("<I")
TRAILER_BYTES = _TRAILER.size + HASH_BYTES + len(END_MAGIC)
_GROUP_HEAD_BYTES = 8 + _GROUP.size
_own = threading.local()


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


@dataclass(frozen=True, slots=True)
class PackIndex:
    """What a pack holds; manifest is None and problem says why if its checkpoint cannot be read."""

    groups: list[Group]
    session_id: str
    manifest: bytes | None
    problem: str
    version: int = VERSION
    is_whole: bool = True  # False: it looks as a save does that was cut off


def encode_header(number: int, session_id: str, version: int = VERSION) -> bytes:
    """What a pack begins with."""
    name = session_id.encode()
    head = _HEADER.pack(MAGIC, version, len(name), number)
    return head + _CHECKSUM.pack(crc32(name, crc32(head))) + name


def encode_group(
    chunks: Sequence[tuple[bytes, bytes | memoryview]], first: int, compressor: zstandard.ZstdCompressor
) -> tuple[bytes, bytes]:
    """(head, zstd frame) of some (hash, data) chunks."""
    frame = compressor.compress(b"".join(data for _, data in chunks))
    hashes, lengths = tuple(digest for digest, _ in chunks), tuple(len(data) for _, data in chunks)
    return encode_group_head(Group(0, len(frame), first, hashes, lengths)), frame


def encode_group_head(group: Group) -> bytes:
    """What stands before the group's frame; its offset is not said."""
    rest = _GROUP.pack(len(group.hashes), group.first, group.stored_bytes) + b"".join(
        map(_CHUNK.pack, group.hashes, group.lengths)
    )
    return GROUP_MARK + _CHECKSUM.pack(crc32(rest)) + rest


def encode_end(header: bytes, heads: Sequence[bytes], manifest: bytes, index_offset: int) -> bytes:
    """Index and trailer."""
    joined = b"".join(heads)
    numbers = _TRAILER.pack(index_offset, len(heads), len(joined), len(manifest))
    digest = blake3(header + joined + manifest + numbers).digest()
    return b"".join((joined, manifest, numbers, digest, END_MAGIC))


def read_index(file: int, number: int) -> PackIndex:
    """The pack's index from its end; if that is damaged, from its group marks."""
    size = os.fstat(file).st_size
    try:
        header, session_id, version = _read_header(partial(os.pread, file), number)
    except _ForeignError as error:
        return _salvage(file, size, "", str(error))
    except ValueError as error:
        return replace(_salvage(file, size, "", str(error)), is_whole=False)
    try:
        return _read_end(partial(os.pread, file), size, header, session_id, version)
    except ValueError as error:
        return replace(_salvage(file, size, session_id, str(error)), is_whole=version == 1)


def index_of_ends(read: ReadAt, size: int, number: int) -> PackIndex:
    """The index of a pack of this size of which only the first and the last bytes are at hand; ValueError if they are
    damaged."""
    header, session_id, version = _read_header(read, number)
    return _read_end(read, size, header, session_id, version)


def ends_of(file: int) -> tuple[bytes, bytes]:
    """A whole pack's header, and its index with the trailer: what ``index_of_ends`` needs; ValueError if damaged."""
    size = os.fstat(file).st_size
    header_bytes, tail_at = ends_at(partial(os.pread, file), size)
    return os.pread(file, header_bytes, 0), os.pread(file, size - tail_at, tail_at)


def ends_at(read: ReadAt, size: int) -> tuple[int, int]:
    """How long a pack's header is, and where its index begins; ValueError if they cannot be."""
    if size < _HEADER.size + 4 + TRAILER_BYTES:
        raise ValueError("it is too short")
    header_bytes = _HEADER.size + 4 + _HEADER.unpack(read(_HEADER.size, 0))[2]
    (offset,) = struct.unpack("<Q", read(8, size - TRAILER_BYTES))
    if not header_bytes <= offset <= size - TRAILER_BYTES:
        raise ValueError("its end is damaged")
    return header_bytes, offset


def is_ruined(file: int, number: int) -> bool:
    """Is the pack's own record damaged, and not merely of another version or number? OSError if it cannot be read."""
    try:
        _read_header(partial(os.pread, file), number)
    except _ForeignError:
        return False
    except ValueError:
        return True
    return read_index(file, number).manifest is None


def unpack_group(file: int, group: Group) -> list[bytes | None]:
    """The group's chunks; None for each that is not what its hash says. OSError if the file cannot be read."""
    return unpack_frame(os.pread(file, group.stored_bytes, group.offset), group)


def unpack_frame(frame: bytes, group: Group) -> list[bytes | None]:
    """The same from the zstd frame at hand."""
    raw = decompress(frame, sum(group.lengths))
    if raw is None:
        return [None] * len(group.hashes)
    chunks: list[bytes | None] = []
    start = 0
    for digest, length in zip(group.hashes, group.lengths, strict=True):
        chunk = raw[start : start + length]
        chunks.append(chunk if blake3(chunk).digest() == digest else None)
        start += length
    return chunks


def decompress(frame: bytes, size: int) -> bytes | None:
    """What a frame holds, None unless it is so many bytes: a damaged one may claim any size."""
    try:
        if zstandard.frame_content_size(frame) != size:
            return None
        if not hasattr(_own, "decompressor"):  # this thread's own; making one takes as long as 20 KiB
            _own.decompressor = zstandard.ZstdDecompressor()
        raw: bytes = _own.decompressor.decompress(frame, size)
        return raw
    except zstandard.ZstdError:
        return None


def heads_are_right(file: int, groups: Sequence[Group]) -> bool:
    """Does each group's head stand before its frame, as the index says? They are what is left if the index is lost."""
    for group in groups:
        length = _GROUP_HEAD_BYTES + len(group.hashes) * _CHUNK.size
        at = group.offset - length
        if at < 0 or _decode_head(os.pread(file, length, at), 0, at) != group:
            return False
    return True


def _read_header(read: ReadAt, number: int) -> tuple[bytes, str, int]:
    head = read(_HEADER.size + 4, 0)
    if len(head) < _HEADER.size + 4 or head[:8] != MAGIC:
        raise ValueError("its header is damaged")
    _, version, length, found_number = _HEADER.unpack_from(head)
    name = read(length, len(head))
    if _CHECKSUM.pack(crc32(name, crc32(head[:-4]))) != head[-4:]:
        raise ValueError("its header is damaged")
    if version not in KNOWN_VERSIONS:
        raise _ForeignError(f"it has format version {version} and this Selfware reads versions up to {VERSION}")
    if found_number != number:
        raise _ForeignError(f"the file holds checkpoint {found_number}")
    return head + name, name.decode(), version


def _read_end(read: ReadAt, size: int, header: bytes, session_id: str, version: int) -> PackIndex:
    trailer = read(TRAILER_BYTES, max(0, size - TRAILER_BYTES))
    if len(trailer) < TRAILER_BYTES or trailer[-8:] != END_MAGIC:
        raise ValueError("its end is missing or damaged")
    numbers, digest = trailer[: _TRAILER.size], trailer[_TRAILER.size : _TRAILER.size + HASH_BYTES]
    offset, count, heads_bytes, manifest_bytes = _TRAILER.unpack(numbers)
    if offset + heads_bytes + manifest_bytes + TRAILER_BYTES != size:
        raise ValueError("its end is damaged")
    index = read(heads_bytes + manifest_bytes, offset)
    if blake3(header + index + numbers).digest() != digest:
        raise ValueError("its index does not match its hash")
    groups, data_at, at = [], len(header), 0
    for _ in range(count):
        group = _decode_head(index, at, data_at)
        if group is None:
            raise ValueError("its index is damaged")
        groups.append(group)
        head_bytes = _GROUP_HEAD_BYTES + len(group.hashes) * _CHUNK.size
        data_at += head_bytes + group.stored_bytes
        at += head_bytes
    try:
        manifest = zstandard.ZstdDecompressor().decompress(index[heads_bytes:])
    except zstandard.ZstdError:
        raise ValueError("its manifest is damaged") from None
    return PackIndex(groups, session_id, manifest, "", version)


def _salvage(file: int, size: int, session_id: str, problem: str) -> PackIndex:
    """Every group whose head is whole, found by its mark."""
    data = os.pread(file, size, 0)
    groups: list[Group] = []
    seen: set[int] = set()
    at = data.find(GROUP_MARK)
    while at >= 0:
        group = _decode_head(data, at, at)
        end = group.offset + group.stored_bytes if group else 0
        if group is not None and end <= size:
            # the index repeats every head at the end of the file: only the first one stands before its frame
            if group.first not in seen:
                groups.append(group)
                seen.add(group.first)
            at = data.find(GROUP_MARK, end)
        else:
            at = data.find(GROUP_MARK, at + 1)
    return PackIndex(groups, session_id, None, problem)


def _decode_head(data: bytes, at: int, file_at: int) -> Group | None:
    """The group head at this place of data; file_at is where it (and then its frame) lies in the file."""
    if data[at : at + 4] != GROUP_MARK or at + _GROUP_HEAD_BYTES > len(data):
        return None
    count, first, stored_bytes = _GROUP.unpack_from(data, at + 8)
    end = at + _GROUP_HEAD_BYTES + count * _CHUNK.size
    if end > len(data) or _CHECKSUM.pack(crc32(data[at + 8 : end])) != data[at + 4 : at + 8]:
        return None
    chunks = [_CHUNK.unpack_from(data, at + _GROUP_HEAD_BYTES + index * _CHUNK.size) for index in range(count)]
    hashes = tuple(chunk[0] for chunk in chunks)
    lengths = tuple(chunk[1] for chunk in chunks)
    return Group(file_at + end - at, stored_bytes, first, hashes, lengths)
