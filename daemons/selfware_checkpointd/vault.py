"""Encryption at rest: what checkpointd knows about keys and ciphers is all here.

    vault   the keys: the first one seals, each of them opens
    box     one key for one file, derived from the vault's key and from what the file's name says

A box seals with AES-256-GCM and a random nonce: 12 bytes nonce, then what was sealed, then 16 bytes tag. Since every
file has its own key, so has the bound of 2^32 random nonces a key: no file comes near it, however often a pack or a
segment of the same name is written again. What belongs around the sealed bytes (where they stand) is authenticated
with them, so nothing can be moved to another place or another file unnoticed.

    box key = BLAKE3 keyed with the vault's key, of "selfware box\\0" and the name
    key id  = the first 8 bytes of BLAKE3 keyed with the vault's key, of "selfware key id"

The cipher's library is loaded only if there is a key. Owns no file. Thread-safe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from blake3 import blake3

from selfware_checkpointd.errors import KeyMissingError
from selfware_common.state.keys import key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16
SEALED_MORE_BYTES = NONCE_BYTES + TAG_BYTES
_NAMING = b"selfware box\0"

Random = Callable[[int], bytes]


@cache
def _library() -> tuple[type[AESGCM], type[Exception]]:
    """What ciphers, and what it raises if a tag does not fit; 25 ms and 9 MB the first time."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM, InvalidTag


class Box:
    """The key of one file."""

    __slots__ = ("_cipher", "_key", "_random", "key_id")

    def __init__(self, key: bytes, name: bytes, random: Random) -> None:
        self.key_id = key_id(key)
        self._key = blake3(_NAMING + name, key=key).digest()
        self._random = random
        self._cipher: AESGCM | None = None

    def kept_ready(self) -> Box:
        """For a box that is used many times: 4 KB more memory, 5 us less each time."""
        self._cipher = self._made()
        return self

    def seal(self, plain: bytes, around: bytes) -> bytes:
        """SEALED_MORE_BYTES longer than what goes in; ``around`` must be the same when it is opened."""
        nonce = self._random(NONCE_BYTES)
        return nonce + (self._cipher or self._made()).encrypt(nonce, plain, around)

    def open(self, sealed: bytes | memoryview, around: bytes) -> bytes | None:
        """What was sealed; None if a byte of it, or of what belongs around it, is another one, or the key is."""
        if len(sealed) < SEALED_MORE_BYTES:
            return None
        try:
            return (self._cipher or self._made()).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], around)
        except _library()[1]:
            return None

    def _made(self) -> AESGCM:
        return _library()[0](self._key)


class Vault:
    """Keys, and whether what is written now is sealed with the first of them."""

    def __init__(self, keys: Sequence[bytes] = (), seals: bool = True, random: Random = os.urandom) -> None:
        self._keys = {key_id(key): key for key in reversed(keys)}
        self._random = random
        self.key_id = key_id(keys[0]) if keys and seals else None
        """Of the key that seals; None: what is written now is not encrypted."""

    def sealing(self, name: bytes) -> Box | None:
        """For a file of this name that is written now; None if it is not encrypted."""
        return None if self.key_id is None else Box(self._keys[self.key_id], name, self._random)

    def opens(self, wanted: bytes) -> bool:
        """Is this key here?"""
        return wanted in self._keys

    def opening(self, wanted: bytes, name: bytes, what: str) -> Box:
        """The box that opens a file of this name; KeyMissingError, which calls it ``what``, if its key is not here."""
        if wanted not in self._keys:
            raise KeyMissingError(what=what, key_id=wanted.hex())
        return Box(self._keys[wanted], name, self._random)

    def all_boxes(self, name: bytes) -> list[Box]:
        """One of each key, for a file that does not say which one it was."""
        return [Box(key, name, self._random) for key in self._keys.values()]


NO_VAULT = Vault()
"""Nothing is encrypted."""
