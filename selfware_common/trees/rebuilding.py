"""Makes the whole stream of an incremental capture: the simplest receiver of ``same``, for who needs all the bytes."""

from __future__ import annotations

from selfware_common.trees.errors import TreeDamagedError, printable


class Rebuilding:
    """A TreeOutput that copies what is the same from the previous stream, which is kept until this is dropped."""

    def __init__(self, previous: bytes | bytearray | memoryview) -> None:
        self._previous = memoryview(previous)
        self.stream = bytearray()
        """The new stream, whole when the capture is over."""

    def data(self, data: bytes) -> None:
        """New bytes."""
        self.stream += data

    def same(self, path: bytes, offset_bytes: int, length_bytes: int) -> None:
        """Old bytes; TreeDamagedError if the previous stream, so the index, is another one."""
        if offset_bytes + length_bytes > len(self._previous):
            raise TreeDamagedError(problem=f"the previous one does not hold '{printable(path)}'")
        self.stream += self._previous[offset_bytes : offset_bytes + length_bytes]
