"""The keys of a store that is encrypted at rest: how they are written down, and the short name that errors call one by.

A file holds one key as 32 raw bytes, or some as 64 hexadecimal digits each, one a line. Owns no file.
"""

from __future__ import annotations

from blake3 import blake3

KEY_BYTES = 32
KEY_ID_BYTES = 8
_NAMING = b"selfware key id"


def key_id(key: bytes) -> bytes:
    """What a key is called; says nothing about the key itself."""
    return blake3(_NAMING, key=key).digest(KEY_ID_BYTES)


def parse_keys(data: bytes) -> list[bytes]:
    """The keys in a file, in order; raises ValueError, whose text goes on "it "."""
    if len(data) == KEY_BYTES:
        return [data]
    keys = []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            key = bytes.fromhex(line.strip().decode("ascii"))
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"holds neither {KEY_BYTES} raw bytes nor lines of {2 * KEY_BYTES} hexadecimal digits")
        keys.append(key)
    if not keys:
        raise ValueError("is empty")
    return keys
