"""What a checkpoint is: a few facts, and which stored chunks in which order make up its state.

Encoded (little-endian), then compressed as one zstd frame:

      0   8  checkpoint number
      8   1  level            1 micro, 2 task, 3 session, 4 system
      9   8  sequence         the last event folded into the state
     17   8  created          nanoseconds since 1970
     25   8  state bytes
     33  32  state hash       BLAKE3-256 of the BLAKE3-256 digests of its chunks, in order
                              (in packs of version 1: of the whole state)
     65   2  session id length
     67   2  label length
     69   4  number of runs
     73      session id, label (UTF-8), then the runs, 16 bytes each:
      0   8  pack number      4  first chunk in that pack      4  number of chunks

Chunks that stay neighbours from save to save make one run, so a manifest is short without referring to another one.
Owns no file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

_HEAD = struct.Struct("<QBQQQ32sHHI")
_RUN = struct.Struct("<QII")


class Level(IntEnum):
    """Why a checkpoint was made; numbered as in protos/checkpoint.proto."""

    MICRO = 1
    TASK = 2
    SESSION = 3
    SYSTEM = 4


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a person or a caller knows of a checkpoint."""

    number: int
    session_id: str
    level: Level
    sequence: int
    created_unix_nanos: int
    state_bytes: int
    stored_bytes: int
    state_hash: bytes
    label: str

    @property
    def checkpoint_id(self) -> str:
        """The name people use."""
        return checkpoint_id(self.number)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring chunks of one pack."""

    pack: int
    first: int
    count: int


def checkpoint_id(number: int) -> str:
    """Eight digits, more when they are used up."""
    return f"ckpt-{number:08d}"


def number_of(name: str) -> int | None:
    """The number of the checkpoint that is called exactly this."""
    digits = name.removeprefix("ckpt-")
    number = int(digits) if digits.isdecimal() and len(digits) < 20 else None
    return number if number is not None and checkpoint_id(number) == name else None


def runs_of(places: Iterable[tuple[int, int]]) -> list[Run]:
    """Join (pack, chunk) places that follow one another."""
    runs: list[Run] = []
    pack, first, count = -1, 0, 0
    for place_pack, index in places:
        if place_pack == pack and index == first + count:
            count += 1
            continue
        if count:
            runs.append(Run(pack, first, count))
        pack, first, count = place_pack, index, 1
    if count:
        runs.append(Run(pack, first, count))
    return runs


def encode_manifest(info: CheckpointInfo, runs: list[Run]) -> bytes:
    """The bytes before compression."""
    session_id, label = info.session_id.encode(), info.label.encode()
    head = _HEAD.pack(
        info.number,
        info.level,
        info.sequence,
        info.created_unix_nanos,
        info.state_bytes,
        info.state_hash,
        len(session_id),
        len(label),
        len(runs),
    )
    return b"".join([head, session_id, label, *(_RUN.pack(run.pack, run.first, run.count) for run in runs)])


def decode_manifest(data: bytes, stored_bytes: int) -> tuple[CheckpointInfo, list[Run]]:
    """The facts and the runs; the caller has checked the bytes already."""
    number, level, sequence, created, size, state_hash, id_bytes, label_bytes, count = _HEAD.unpack_from(data)
    label_at = _HEAD.size + id_bytes
    runs_at = label_at + label_bytes
    session_id, label = data[_HEAD.size : label_at].decode(), data[label_at:runs_at].decode()
    runs = [Run(*_RUN.unpack_from(data, runs_at + index * _RUN.size)) for index in range(count)]
    info = CheckpointInfo(number, session_id, Level(level), sequence, created, size, stored_bytes, state_hash, label)
    return info, runs
