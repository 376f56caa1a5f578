"""Reads a stream, and believes nothing of it before its hashes fit.

The end is read first: it says what there is. Opening checks everything but the contents; ``check_contents`` checks
those, and reading one checks that one. Owns nothing: the caller keeps the file open and closes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from blake3 import blake3

from selfware_common.trees.errors import TreeDamagedError, printable
from selfware_common.trees.stream import (
    HEADER,
    TRAILER_BYTES,
    Entry,
    Kind,
    check_blocks,
    claimed_hash,
    decode_entries,
    decode_header,
    decode_trailer,
)

_PIECE_BYTES = 1 << 20


def read_tree(stream: BinaryIO) -> Tree:
    """The tree in a seekable stream. TreeDamagedError, TreeVersionError."""
    return Tree(stream)


class Tree:
    """The entries of a stream, each directory before what is in it, and the contents of its files."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        size = stream.seek(0, os.SEEK_END)
        if size < len(HEADER) + TRAILER_BYTES:
            raise TreeDamagedError(problem="it is too short")
        decode_header(self._at(0, len(HEADER)))
        trailer = self._at(size - TRAILER_BYTES, TRAILER_BYTES)
        self._trailer = decode_trailer(trailer)
        self.stream_hash = claimed_hash(trailer)
        if len(HEADER) + self._trailer.content_bytes + self._trailer.block_bytes + TRAILER_BYTES != size:
            raise TreeDamagedError(problem="its length does not match its end")
        blocks = self._at(len(HEADER) + self._trailer.content_bytes, self._trailer.block_bytes)
        self._blocks = check_blocks(blocks, trailer)
        tree_hash = blake3()
        for entry in self:  # entries are made anew each time: the paths of a deep tree would fill the memory
            tree_hash.update(entry.canonical())
        self.tree_hash = tree_hash.digest()

    @property
    def content_bytes(self) -> int:
        """All files together."""
        return self._trailer.content_bytes

    def __len__(self) -> int:
        return self._trailer.entries

    def __iter__(self) -> Iterator[Entry]:
        return decode_entries(self._blocks, self._trailer)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of a file in pieces; after the last, TreeDamagedError if they were not the right ones."""
        digest, at, end = blake3(), entry.offset_bytes, entry.offset_bytes + entry.content_bytes
        while at < end:
            piece = self._at(at, min(_PIECE_BYTES, end - at))
            digest.update(piece)
            at += len(piece)
            yield piece
        if digest.digest() != entry.content_hash:
            raise TreeDamagedError(problem=f"the file '{printable(entry.path)}' does not match its hash")

    def check_contents(self) -> None:
        """TreeDamagedError unless every file is what was saved."""
        for entry in self:
            if entry.kind == Kind.FILE:
                for _ in self.content(entry):
                    pass

    def _at(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        pieces = []
        while length and (piece := self._stream.read(length)):
            pieces.append(piece)
            length -= len(piece)
        if length:
            raise TreeDamagedError(problem="it became shorter while it was read")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
