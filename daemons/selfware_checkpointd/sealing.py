"""Sealed journal segments: full, never written again, and compressed so that a week of events stays small.

A sealed segment ``<first>.wal`` becomes ``<first>.wal.zst``: one zstd frame of the very same bytes, with zstd's own
content checksum (``zstd -d`` gives the segment back). The compressed file is durable under its name before the
plain one goes, so a crash leaves one or both; both is repaired by removing the plain one again, once the compressed
one has been read back: it may have been damaged since.

With encryption at rest the file of this name is what ``sealed_segment`` draws. Segments that were sealed before it was
switched on, or with an older key, are sealed once more.

Owns the names in a journal directory. Never touches the segment being written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import zstandard

from selfware_checkpointd import sealed_segment
from selfware_checkpointd.errors import KeyMissingError, StorageError
from selfware_checkpointd.files import sync_directory, write_durably
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.segment import key_id_of, refuse_other_version

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


def settle(directory: Path, first_sequence: int, keys: JournalKeys) -> bool:
    """Compress a full segment if it is still plain, or sealed otherwise than it should be; was there anything to do?"""
    is_due = _is_due(directory, first_sequence, keys)
    if is_due:
        compress(directory, first_sequence, keys)
    return is_due


def _is_due(directory: Path, first_sequence: int, keys: JournalKeys) -> bool:
    """Can it be sealed as it should be, and is it not?"""
    with contextlib.suppress(FileNotFoundError):
        return keys.opens(key_id_of(_head(plain_path(directory, first_sequence)), first_sequence))
    if keys.key_id is None:
        return False
    head = _head(compressed_path(directory, first_sequence))
    found = sealed_segment.key_id_of(head, first_sequence)
    if found is None:  # of a damaged one nothing becomes better
        return not sealed_segment.is_encrypted(head)
    return found != keys.key_id and keys.opens(found)


def compress(directory: Path, first_sequence: int, keys: JournalKeys | None = None) -> int:
    """Compress one sealed segment, and encrypt it if it should be; returns its size on disk now. Harmless when it runs
    twice."""
    keys = keys or JournalKeys("")
    plain, compressed = plain_path(directory, first_sequence), compressed_path(directory, first_sequence)
    if not plain.exists():
        _seal_again(compressed, first_sequence, keys)
    elif not is_whole(compressed, first_sequence, keys):
        write_durably(compressed, [_sealed(plain.read_bytes(), first_sequence, keys)])
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


def read_head(directory: Path, first_sequence: int, keys: JournalKeys, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of a segment; none if it cannot be read now."""
    with contextlib.suppress(OSError, zstandard.ZstdError, KeyMissingError):
        try:
            return _head(plain_path(directory, first_sequence), size)
        except FileNotFoundError:
            compressed = compressed_path(directory, first_sequence)
        if sealed_segment.is_encrypted(_head(compressed)):
            return sealed_segment.decode(compressed.read_bytes(), first_sequence, keys).data[:size]
        with compressed.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            return reader.read(size)
    return b""


def read_segment(
    directory: Path, first_sequence: int, limit: int | None = None, keys: JournalKeys | None = None
) -> bytes:
    """The segment's bytes: plain up to limit, or what a (perhaps damaged) compressed one still gives. KeyMissingError
    if that is encrypted with a key that is not here."""
    plain, compressed = plain_path(directory, first_sequence), compressed_path(directory, first_sequence)
    try:
        data = _read_either(plain, compressed, limit, first_sequence, keys or JournalKeys(""))
    except OSError as error:
        raise StorageError(what="read the journal", path=plain, reason=error.strerror or str(error)) from error
    refuse_other_version(data, plain)
    return data


def _head(path: Path, size: int = HEAD_BYTES) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _sealed(data: bytes, first_sequence: int, keys: JournalKeys) -> bytes:
    """What is encrypted stays so when encryption is switched off."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    box = keys.for_sealed(first_sequence) or keys.for_sealed(first_sequence, key_id_of(data, first_sequence))
    if box is None:
        return compressor.compress(data)
    data = sealed_segment.uncovered(data, first_sequence, keys)
    return sealed_segment.encode(data, first_sequence, box, compressor)


def _seal_again(compressed: Path, first_sequence: int, keys: JournalKeys) -> None:
    """With the present key, if it was with another one or none. Damage stays what and where it is."""
    if keys.key_id is None:
        return
    stored = compressed.read_bytes()
    if _gives_all(stored, first_sequence, keys) and sealed_segment.key_id_of(stored, first_sequence) != keys.key_id:
        write_durably(compressed, [_sealed(_unsealed(stored, first_sequence, keys), first_sequence, keys)])


def _read_either(plain: Path, compressed: Path, limit: int | None, first_sequence: int, keys: JournalKeys) -> bytes:
    for _ in range(2):  # sealing may rename between the two tries
        try:
            with plain.open("rb") as file:
                return file.read(-1 if limit is None else limit)
        except FileNotFoundError:
            pass
        try:
            return _unsealed(compressed.read_bytes(), first_sequence, keys)
        except FileNotFoundError:
            continue
    return b""


def is_whole(path: Path, first_sequence: int, keys: JournalKeys) -> bool:
    """Is it there, as it should be, and does it give all that it was made of?"""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    is_as_it_should_be = keys.key_id in (None, sealed_segment.key_id_of(data, first_sequence))
    return is_as_it_should_be and _gives_all(data, first_sequence, keys)


def gives_all(path: Path, first_sequence: int, keys: JournalKeys) -> bool:
    """Is all of a sealed segment still right, whichever key it is sealed with?"""
    return _gives_all(path.read_bytes(), first_sequence, keys)


def _gives_all(data: bytes, first_sequence: int, keys: JournalKeys) -> bool:
    """Is it there to its end, and do the checksums fit?"""
    if sealed_segment.is_encrypted(data):
        return sealed_segment.decode(data, first_sequence, keys).is_whole
    reader = zstandard.ZstdDecompressor().decompressobj()
    try:
        reader.decompress(data)
    except zstandard.ZstdError:
        return False
    return reader.eof


def _unsealed(data: bytes, first_sequence: int, keys: JournalKeys) -> bytes:
    """The segment, or what damage has left of it."""
    if sealed_segment.is_encrypted(data):
        return sealed_segment.decode(data, first_sequence, keys).data
    pieces = []
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        try:
            while piece := reader.read(128 * 1024):
                pieces.append(piece)
        except zstandard.ZstdError:
            pass  # what came before is used; every record has its own checksum, and a gap is noticed by number
    return b"".join(pieces)
