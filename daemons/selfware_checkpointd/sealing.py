"""Sealed journal segments: full, never written again, and compressed so that a week of events stays small.

A sealed segment ``<first>.wal`` becomes ``<first>.wal.zst``: one zstd frame of the very same bytes, with zstd's own
content checksum (``zstd -d`` gives the segment back). The compressed file is durable under its name before the
plain one goes, so a crash leaves one or both; both is repaired by removing the plain one again, once the compressed
one has been read back: it may have been damaged since.

Owns the names in a journal directory. Never touches the segment being written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import zstandard

from selfware_checkpointd.errors import StorageError
from selfware_checkpointd.files import sync_directory, write_durably
from selfware_checkpointd.segment import refuse_other_version

PLAIN = ".wal"
COMPRESSED = ".wal.zst"
LEVEL = 3
HEAD_BYTES = 128  # the header and the head of the first record


def plain_path(directory: Path, first_sequence: int) -> Path:
    """The segment as it is written."""
    return directory / f"{first_sequence:020d}{PLAIN}"


def compressed_path(directory: Path, first_sequence: int) -> Path:
    """The segment after sealing."""
    return directory / f"{first_sequence:020d}{COMPRESSED}"


def first_sequences(directory: Path) -> list[int]:
    """Which segments there are, in order, plain or compressed."""
    found = set()
    for path in directory.iterdir():
        digits = path.name.removesuffix(COMPRESSED).removesuffix(PLAIN)
        if digits != path.name and len(digits) == 20 and digits.isdecimal():
            found.add(int(digits))
    return sorted(found)


def compress(directory: Path, first_sequence: int) -> int:
    """Compress one sealed segment; returns its size on disk now. Harmless when it runs twice."""
    plain, compressed = plain_path(directory, first_sequence), compressed_path(directory, first_sequence)
    if plain.exists() and not is_whole(compressed):
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
        write_durably(compressed, [compressor.compress(plain.read_bytes())])
    if plain.exists():
        plain.unlink()
        sync_directory(directory)
    return compressed.stat().st_size


def size_of(directory: Path, first_sequence: int) -> int:
    """What a segment takes on disk."""
    for path in (plain_path(directory, first_sequence), compressed_path(directory, first_sequence)):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
    return 0


def remove(directory: Path, first_sequences: Sequence[int]) -> None:
    """Delete these segments; harmless when it runs twice."""
    for first in first_sequences:
        plain_path(directory, first).unlink(missing_ok=True)
        compressed_path(directory, first).unlink(missing_ok=True)
    if first_sequences:
        sync_directory(directory)


def read_head(directory: Path, first_sequence: int, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of a segment; none if it cannot be read now."""
    with contextlib.suppress(OSError, zstandard.ZstdError):
        try:
            with plain_path(directory, first_sequence).open("rb") as file:
                return file.read(size)
        except FileNotFoundError:
            packed = compressed_path(directory, first_sequence).open("rb")
            with packed, zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                return reader.read(size)
    return b""


def read_segment(directory: Path, first_sequence: int, limit: int | None = None) -> bytes:
    """The segment's bytes: plain up to limit, or what a (perhaps damaged) compressed one still gives."""
    plain = plain_path(directory, first_sequence)
    try:
        data = _read_either(plain, compressed_path(directory, first_sequence), limit)
    except OSError as error:
        raise StorageError(what="read the journal", path=plain, reason=error.strerror or str(error)) from error
    refuse_other_version(data, plain)
    return data


def _read_either(plain: Path, compressed: Path, limit: int | None) -> bytes:
    for _ in range(2):  # sealing may rename between the two tries
        try:
            with plain.open("rb") as file:
                return file.read(-1 if limit is None else limit)
        except FileNotFoundError:
            pass
        try:
            return _decompress(compressed)
        except FileNotFoundError:
            continue
    return b""


def is_whole(path: Path) -> bool:
    """Is it there, to the end of its frame, and does zstd's checksum fit?"""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    reader = zstandard.ZstdDecompressor().decompressobj()
    try:
        reader.decompress(data)
    except zstandard.ZstdError:
        return False
    return reader.eof


def _decompress(path: Path) -> bytes:
    pieces = []
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        try:
            while piece := reader.read(128 * 1024):
                pieces.append(piece)
        except zstandard.ZstdError:
            pass  # what came before is used; every record has its own checksum, and a gap is noticed by number
    return b"".join(pieces)
