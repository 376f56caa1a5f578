"""A file without a name for one large state while it comes in. With encryption at rest its blocks hold ciphertext, too:
a file that has gone still lies on the disk.

Its key lives as long as the file and is never written anywhere. Nothing is authenticated: what is read back is checked
against the state's own hash. Written once from the beginning, then read from the beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Protocol

KEY_BYTES, COUNTER_BYTES = 32, 16


class _Stream(Protocol):
    def update(self, data: bytes | memoryview) -> bytes: ...


class _Same:
    """The stream that changes nothing."""

    def update(self, data: bytes | memoryview) -> bytes | memoryview:
        return data


class Spool:
    """One state."""

    def __init__(self, directory: Path, is_encrypted: bool) -> None:
        """OSError if there is no room for it."""
        self._file = TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 -- __exit__ closes it
        self._key = os.urandom(KEY_BYTES + COUNTER_BYTES) if is_encrypted else b""
        self._writing = self._stream()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, piece: memoryview) -> None:
        """Go on; OSError if the disk is full."""
        rest = memoryview(self._writing.update(piece))
        while rest:
            rest = rest[self._file.write(rest) or 0 :]

    def pieces(self, lengths: Sequence[int]) -> Iterator[memoryview]:
        """From the beginning, in pieces of these lengths."""
        reading, at = self._stream(), 0
        for length in lengths:
            yield memoryview(reading.update(os.pread(self._file.fileno(), length, at)))
            at += length

    def _stream(self) -> _Stream | _Same:
        if not self._key:
            return _Same()
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CTR

        return Cipher(AES(self._key[:KEY_BYTES]), CTR(self._key[KEY_BYTES:])).encryptor()
