"""Decompresses zstd frames whose size is known: a damaged one may claim any.

Owns one decompressor for each thread: making one takes as long as 20 KiB.
"""

from __future__ import annotations

import threading

import zstandard

_own = threading.local()


def decompress(frame: bytes | memoryview, size: int) -> bytes | None:
    """What the frame holds; None unless it is so many bytes."""
    try:
        if zstandard.frame_content_size(frame) != size:
            return None
        raw: bytes = _decompressor().decompress(frame, size)
        return raw
    except zstandard.ZstdError:
        return None


def decompress_into(frame: bytes | memoryview, room: memoryview) -> bool:
    """The same into memory that is there, and is filled if it was right. Fresh memory costs a fifth of the work."""
    try:
        if zstandard.frame_content_size(frame) != len(room):
            return False
        at = 0
        with _decompressor().stream_reader(frame) as reader:
            while at < len(room) and (came := reader.readinto(room[at:])):
                at += came
        return at == len(room)
    except zstandard.ZstdError:
        return False


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_own, "decompressor"):
        _own.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _own.decompressor
    return found
