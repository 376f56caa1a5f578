"""A frame that is not what it says is not believed, whichever way it is decompressed."""

from __future__ import annotations

import pytest
import zstandard

from selfware_checkpointd.frames import decompress, decompress_into
from tests.unit.selfware_checkpointd.helpers import state

RAW = state(1, 50_000) + bytes(400_000)
FRAME = zstandard.compress(RAW, 3)


def test_a_frame_is_decompressed_into_fresh_memory_or_into_such_as_is_there() -> None:
    assert decompress(FRAME, len(RAW)) == RAW
    room = memoryview(bytearray(b"x" * (len(RAW) + 10)))
    assert decompress_into(memoryview(FRAME), room[:-10])
    assert room[:-10] == RAW
    assert bytes(room[-10:]) == b"x" * 10


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"junk",
        FRAME[:-1],
        FRAME[:1000],
        FRAME[:20_000] + b"\xff" * 30 + FRAME[20_030:],
        zstandard.compress(RAW[:-1]),
        zstandard.compress(RAW + b"x"),
        zstandard.ZstdCompressor(write_content_size=False).compress(RAW),
    ],
    ids=["empty", "junk", "cut off", "cut off early", "overwritten", "shorter", "longer", "of unknown size"],
)
def test_what_is_not_so_long_or_not_whole_is_refused(frame: bytes) -> None:
    found = decompress(frame, len(RAW))
    room = memoryview(bytearray(len(RAW)))
    assert found is None or (found != RAW and len(found) == len(RAW)), "which its hash tells"
    assert decompress_into(frame, room) == (found is not None)
