"""The chunks that a client sends while it still compares the rest of its state: being compressed, until the save comes.

A save that follows takes all of them or none; whatever else follows drops them. Owns their memory, which is kept for
the next time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from blake3 import blake3

from selfware_checkpointd.ahead import MOST_BYTES, Ahead
from selfware_checkpointd.errors import UnusableStateError
from selfware_common.state import wire
from selfware_common.state.chunking import MAX_BYTES

KEPT_BYTES = 2 * 1024 * 1024  # of memory, between two saves


class Early:
    """Of one connection."""

    def __init__(self, begin: Callable[[], Ahead]) -> None:
        self._begin = begin
        self._room = bytearray()
        self._ahead: Ahead | None = None

    def receive(self, connection: socket.socket, head: dict[str, Any]) -> None:
        """Read the body of an "early" message; raises ValueError if that is none."""
        size = head["body"]
        try:
            lengths = [int(length) for length in head["lengths"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"an early that is incomplete: {error!r}") from error
        if not lengths or not 0 < min(lengths) <= max(lengths) <= MAX_BYTES or sum(lengths) != size:
            raise ValueError("an early whose chunks are no chunks")
        if size > MOST_BYTES:
            raise ValueError(f"an early of {size} bytes")
        self.forget()
        if len(self._room) < size:
            self._room = bytearray(size + size // 8)
        body = memoryview(self._room)[:size]
        wire.receive_into(connection, body)
        ends = list(accumulate(lengths))
        pieces = [body[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        self._ahead = self._begin()
        self._ahead.add([(blake3(piece).digest(), piece) for piece in pieces])

    def take(self, count: int) -> Ahead | None:
        """For a save that counts on so many; raises UnusableStateError if others came."""
        if not count:
            return None
        came = len(self._ahead.chunks) if self._ahead is not None else 0
        if count != came:
            raise UnusableStateError(problem=f"{count} of its chunks came early, it says, and {came} did")
        return self._ahead

    def forget(self) -> None:
        """The save is over."""
        if self._ahead is not None:
            self._ahead.drop()
        self._ahead = None
        if len(self._room) > KEPT_BYTES:
            self._room = bytearray()
