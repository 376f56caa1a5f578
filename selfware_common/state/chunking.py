"""Where to cut a state, so that an edit in the middle changes few pieces.

FastCDC 2020 from pyfastcdc's compiled half: a chunk of 20 KiB on average, never above 64 KiB. The cut list is part
of the stored format only in so far as other parameters would find fewer chunks again; any cutting can be restored.
Never falls back to the pure-Python half: 100 times slower would look like a hang.
"""

from __future__ import annotations

from collections.abc import Iterator

AVERAGE_BYTES = 16 * 1024
MAX_BYTES = 64 * 1024


class Chunker:
    """Cuts states; not for two threads at once."""

    def __init__(self) -> None:
        """Fails with one clear sentence if the compiled extension is missing."""
        try:
            from pyfastcdc.cy import FastCDC
        except ImportError as error:
            from selfware_common.errors import ChunkerMissingError  # with gRPC behind it: not for a short-lived client

            raise ChunkerMissingError from error
        self._cdc = FastCDC(AVERAGE_BYTES, min_size=AVERAGE_BYTES // 4, max_size=MAX_BYTES, seed=0)

    def cut(self, state: memoryview) -> Iterator[memoryview]:
        """The pieces of the state, in order; joined they are the state again."""
        for chunk in self._cdc.cut_buf(state):
            yield chunk.data
