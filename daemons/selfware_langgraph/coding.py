"""How one serialized value becomes few bytes: whole, or as what changed since the value before it.

A graph that adds a message to its list gives the checkpointer the whole list again at every step; kept as it comes, a
history grows with the square of its length. The value is only bytes here, whatever serializer made them. Four codings:

    plain   the bytes
    zstd    a zstd frame
    after   a zstd frame whose dictionary is the value before (small values)
    patch   a zstd frame around: count (u32), count times [offset in the value before (u64), bytes to copy from there
            (u64), bytes to take from the literals (u64)], the literals; little-endian (large values)

Owns nothing, pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import zstandard

SMALL_BYTES = 128 * 1024  # up to here zstd finds everything in its dictionary by itself, and quickly
NOT_WORTH_BYTES = 96
LEVEL = 3
MAX_WINDOW_BYTES = 1 << 31
PROBE_BYTES = 48
NEAR_BYTES = 64 * 1024
BLOCK_BYTES = 64 * 1024
MAX_FAR_SEARCHES = 8
_COUNT = struct.Struct("<I")
_COPY = struct.Struct("<QQQ")


class Coding(StrEnum):
    """How the bytes of a value are kept."""

    PLAIN = "plain"
    ZSTD = "zstd"
    AFTER = "after"
    PATCH = "patch"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as it is kept."""

    coding: Coding
    data: bytes
    size_bytes: int  # of the value

    @property
    def needs_base(self) -> bool:
        """Can it be read only with the value before it?"""
        return self.coding in (Coding.AFTER, Coding.PATCH)


def encode(value: bytes, base: bytes | None = None) -> Encoded:
    """The shortest of the codings, without trying hopeless ones."""
    if base and len(value) > NOT_WORTH_BYTES:
        changed = _after(value, base) if max(len(value), len(base)) <= SMALL_BYTES else _patch(value, base)
        if changed is not None and len(changed.data) * 8 <= len(value):
            return changed
        whole = _whole(value)
        return changed if changed is not None and len(changed.data) < len(whole.data) else whole
    return _whole(value)


def decode(encoded: Encoded, base: bytes | None = None) -> bytes:
    """The value again. Raises ValueError when the bytes are not what `encode` made."""
    if encoded.needs_base and base is None:
        raise ValueError("the value that this one was derived from is missing")
    try:
        match encoded.coding:
            case Coding.PLAIN:
                value = encoded.data
            case Coding.AFTER:
                value = _decompressor(base).decompress(encoded.data)
            case Coding.ZSTD:
                value = _decompressor().decompress(encoded.data)
            case Coding.PATCH:
                value = _patched(_decompressor().decompress(encoded.data), base or b"")
    except (zstandard.ZstdError, struct.error) as error:
        raise ValueError(f"a value cannot be decoded: {error}") from error
    if len(value) != encoded.size_bytes:
        raise ValueError(f"a value has {len(value)} bytes and not {encoded.size_bytes}")
    return value


def _whole(value: bytes) -> Encoded:
    if len(value) > NOT_WORTH_BYTES:
        frame = _compress(value)
        if len(frame) < len(value):
            return Encoded(Coding.ZSTD, frame, len(value))
    return Encoded(Coding.PLAIN, value, len(value))


def _after(value: bytes, base: bytes) -> Encoded:
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    frame = zstandard.ZstdCompressor(LEVEL, dict_data=dictionary).compress(value)
    return Encoded(Coding.AFTER, frame, len(value))


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(LEVEL).compress(data)  # a new one each time: one must not serve two threads


def _decompressor(base: bytes | None = None) -> zstandard.ZstdDecompressor:
    if base is None:
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES)


# ---- patches


def _patch(value: bytes, base: bytes) -> Encoded | None:
    copies, literals, written = [], [], 0
    for start, offset, length in _matches(value, base):
        copies.append((offset, length, start - written))
        literals.append(value[written:start])
        written = start + length
    if not copies:
        return None
    literals.append(value[written:])
    # A copy comes after its literals; what follows the last copy is a copy of nothing.
    copies.append((0, 0, len(value) - written))
    head = _COUNT.pack(len(copies)) + b"".join(_COPY.pack(*copy) for copy in copies)
    return Encoded(Coding.PATCH, _compress(head + b"".join(literals)), len(value))


def _patched(patch: bytes, base: bytes) -> bytes:
    (count,) = _COUNT.unpack_from(patch)
    literal = _COUNT.size + count * _COPY.size
    pieces: list[bytes | memoryview] = []
    source, literals = memoryview(base), memoryview(patch)
    for offset, length, taken in _COPY.iter_unpack(patch[_COUNT.size : literal]):
        pieces += [literals[literal : literal + taken], source[offset : offset + length]]
        literal += taken
    return b"".join(pieces)


def _matches(value: bytes, base: bytes) -> Iterator[tuple[int, int, int]]:
    """Start in `value`, offset in `base`, length: what both have in the same order, to the byte where they differ.

    Where they part, short probes from further and further on in `value` are looked for in `base`, first nearby. A value
    whose parts were reordered is not recognised; it is kept whole then.
    """
    start = offset = 0
    far_searches = MAX_FAR_SEARCHES
    while start < len(value):
        length = _common(value, start, base, offset)
        if length >= PROBE_BYTES:
            yield start, offset, length
            start, offset = start + length, offset + length
        found = _next(value, start, base, offset, offset + NEAR_BYTES)
        if found is None and far_searches:
            far_searches -= 1
            found = _next(value, start, base, offset, len(base))
        if found is None:
            return
        start, offset = found


def _next(value: bytes, start: int, base: bytes, low: int, high: int) -> tuple[int, int] | None:
    """Where both go on alike after `start` and `low`: in `value`, in `base`."""
    skipped = 0
    while start + skipped + PROBE_BYTES <= len(value):
        at = base.find(value[start + skipped : start + skipped + PROBE_BYTES], low, high)
        if at >= 0:
            back = 0
            while back < skipped and at - back > low and value[start + skipped - back - 1] == base[at - back - 1]:
                back += 1
            return start + skipped - back, at - back
        skipped = skipped * 2 or 8
    return None


def _common(left: bytes, left_start: int, right: bytes, right_start: int) -> int:
    """How many bytes both have in common from there on: by blocks, because comparing them runs at memory's speed."""
    most = min(len(left) - left_start, len(right) - right_start)
    done, block = 0, BLOCK_BYTES
    while done < most and block:
        size = min(block, most - done)
        one, other = left_start + done, right_start + done
        if left[one : one + size] == right[other : other + size]:
            done += size
        else:
            block = size // 2
    return done
