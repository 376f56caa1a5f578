"""What stays here of a pack that lies in the cold store: where it lies, how to tell that it is right, and its index.

With a stub the catalog knows every chunk of a pack without reading the store. All numbers are little-endian.

    record, 96 bytes + place + key + 32 bytes per part + 32
      0   8  magic            53 46 57 43 4f 4c 44 0a ("SFWCOLD\\n")
      8   2  version          1
     10   2  place length
     12   2  key length
     14   2  reserved         0
     16   8  pack number
     24   8  pack length      in bytes
     32   8  made             nanoseconds since 1970
     40   4  part length      in bytes; the last part is what is left
     44   4  number of parts
     48   4  header length    of the pack's header below
     52   4  index length     of the pack's index and trailer below
     56   8  reserved         0
     64  32  BLAKE3-256       of the whole pack
     96      place, key (UTF-8): the store, and what the names of the pack's objects begin with
             per part: its BLAKE3-256
             BLAKE3-256 of the record up to here
    the pack's header
    the pack's index and trailer, which carry their own BLAKE3-256
    the record once more
    4 bytes: length of the record

Part n (from 0) is the object ``<key>/<n in 5 digits>``. The key ends in 16 random digits and is never used again, so
neither another store nor a request that comes late can meet an object of ours. The file's name says what is true:

    ckpt-<number>.moving         being copied: nothing there is believed
    ckpt-<number>.cold           every part was read back and was right; the pack itself may be gone from here
    ckpt-<number>.cold-chunks    the same of a deleted checkpoint whose chunks others still use
    <key>.gone                   to be removed there

Owns no file: works on bytes.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from selfware_checkpointd.manifest import checkpoint_id
from selfware_checkpointd.packs import PackIndex, ends_at, ends_of, index_of_ends
from selfware_checkpointd.vault import Vault

if TYPE_CHECKING:
    from selfware_checkpointd.coldstore import ColdStore

MAGIC = b"SFWCOLD\n"
VERSION = 1
PART_BYTES = 8 * 1024 * 1024
MOVING, COLD, COLD_CHUNKS, GONE = ".moving", ".cold", ".cold-chunks", ".gone"
_RECORD = struct.Struct("<8sHHHHQQQIIIIQ32s")
_LENGTH = struct.Struct("<I")
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Stub:
    """Where a pack lies in the cold store."""

    number: int
    place: str
    key: str
    made_unix_nanos: int
    pack_bytes: int
    pack_hash: bytes
    part_bytes: int
    part_hashes: tuple[bytes, ...]

    def name_of(self, part: int) -> str:
        """The object that holds this part."""
        return f"{self.key}/{part:05d}"

    def span_of(self, part: int) -> tuple[int, int]:
        """Where in the pack it begins and how long it is."""
        start = part * self.part_bytes
        return start, min(self.part_bytes, self.pack_bytes - start)

    def ranges(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Which (part, offset in it, length) make up these bytes of the pack."""
        while length > 0:
            part, at = divmod(offset, self.part_bytes)
            here = min(length, self.part_bytes - at)
            yield part, at, here
            offset += here
            length -= here


@dataclass(frozen=True, slots=True)
class Read:
    """What a stub's file says; ``index`` is None if only the record is right: the store has the rest."""

    stub: Stub
    index: PackIndex | None


def make(file: int, number: int, place: str, now_unix_nanos: int, part_bytes: int = PART_BYTES) -> tuple[Stub, bytes]:
    """A stub for the open pack, and its bytes; ValueError if the pack's ends are damaged."""
    header, tail = ends_of(file)
    size = os.fstat(file).st_size
    whole, parts = blake3(), list[bytes]()
    for start in range(0, size, part_bytes):
        data = os.pread(file, part_bytes, start)
        whole.update(data)
        parts.append(blake3(data).digest())
    key = f"{checkpoint_id(number)}-{secrets.token_hex(8)}"
    stub = Stub(number, place, key, now_unix_nanos, size, whole.digest(), part_bytes, tuple(parts))
    return stub, encode(stub, header, tail)


def encode(stub: Stub, header: bytes, tail: bytes) -> bytes:
    """The bytes of its file."""
    place, key = stub.place.encode(), stub.key.encode()
    numbers = _RECORD.pack(
        MAGIC, VERSION, len(place), len(key), 0, stub.number, stub.pack_bytes, stub.made_unix_nanos,
        stub.part_bytes, len(stub.part_hashes), len(header), len(tail), 0, stub.pack_hash,
    )  # fmt: skip
    record = numbers + place + key + b"".join(stub.part_hashes)
    record += blake3(record).digest()
    return b"".join((record, header, tail, record, _LENGTH.pack(len(record))))


def read(path: Path, vault: Vault | None = None) -> Read:
    """OSError if it cannot be read, ValueError with half a sentence if both of its records are damaged."""
    return decode(path.read_bytes(), vault)


def index_in(path: Path, vault: Vault) -> PackIndex:
    """The index of a pack that lies in the cold store."""
    try:
        index = read(path, vault).index
    except FileNotFoundError:
        return PackIndex([], "", None, f"its file {path.name} is missing")
    except OSError as error:
        return PackIndex([], "", None, f"its file {path.name} cannot be read ({error.strerror})")
    except ValueError as error:
        return PackIndex([], "", None, str(error))
    return index or PackIndex([], "", None, f"its index in {path.name} is damaged")


def decode(data: bytes, vault: Vault | None = None) -> Read:
    """The same from its bytes; without its index if no vault is given."""
    try:
        stub, header_bytes, tail_bytes, at = _record(data)
    except ValueError:
        length = _LENGTH.unpack(data[-4:])[0] if len(data) > 4 else 0
        stub, header_bytes, tail_bytes, _ = _record(data[-4 - length : -4])
        at = length
    header, tail = data[at : at + header_bytes], data[at + header_bytes : at + header_bytes + tail_bytes]
    return Read(stub, None if vault is None else _index(stub, header, tail, vault))


def is_ruined(path: Path) -> bool:
    """Are both of its records damaged, so that it can never say again where its pack lies? False if a newer Selfware
    wrote it; OSError if it cannot be read."""
    data = path.read_bytes()
    if data[:8] == MAGIC and data[8:10] != VERSION.to_bytes(2, "little"):
        return False
    try:
        decode(data)
    except ValueError:
        return True
    return False


def is_canonical(data: bytes, stub: Stub, vault: Vault) -> bool:
    """Is every byte of a stub's file as it was written?"""
    found, header_bytes, tail_bytes, at = _record(data)
    header, tail = data[at : at + header_bytes], data[at + header_bytes : at + header_bytes + tail_bytes]
    return found == stub and _index(stub, header, tail, vault) is not None and data == encode(stub, header, tail)


def ends_in_store(stub: Stub, store: ColdStore, vault: Vault) -> tuple[bytes, bytes]:
    """The pack's header, and its index with the trailer, from its objects; FileNotFoundError if they are not right."""

    def bytes_at(length: int, offset: int) -> bytes:
        return b"".join(store.get_range(stub.name_of(part), at, size) for part, at, size in stub.ranges(offset, length))

    try:
        index_of_ends(bytes_at, stub.pack_bytes, stub.number, vault)
        header_bytes, tail_at = ends_at(bytes_at, stub.pack_bytes)
    except ValueError as error:
        raise FileNotFoundError(stub.key) from error
    return bytes_at(header_bytes, 0), bytes_at(stub.pack_bytes - tail_at, tail_at)


def _index(stub: Stub, header: bytes, tail: bytes, vault: Vault) -> PackIndex | None:
    begin = stub.pack_bytes - len(tail)

    def bytes_at(length: int, offset: int) -> bytes:
        if offset < begin:
            return header[offset : offset + length]
        return tail[offset - begin : offset - begin + length]

    try:
        return index_of_ends(bytes_at, stub.pack_bytes, stub.number, vault)
    except ValueError:
        return None


def _record(data: bytes) -> tuple[Stub, int, int, int]:
    """The stub, the lengths of the pack's header and tail, and that of the record itself."""
    if len(data) < _RECORD.size or data[:8] != MAGIC:
        raise ValueError("its record of the cold store is damaged")
    (_, version, place_bytes, key_bytes, _, number, pack_bytes, made, part_bytes, parts, header, tail, _, whole) = (
        _RECORD.unpack_from(data)
    )
    end = _RECORD.size + place_bytes + key_bytes + parts * _HASH_BYTES
    if version != VERSION or blake3(data[:end]).digest() != data[end : end + _HASH_BYTES]:
        raise ValueError("its record of the cold store is damaged, or of another version")
    at = _RECORD.size + place_bytes
    place, key = data[_RECORD.size : at].decode(), data[at : at + key_bytes].decode()
    at += key_bytes
    hashes = tuple(data[at + n * _HASH_BYTES : at + (n + 1) * _HASH_BYTES] for n in range(parts))
    stub = Stub(number, place, key, made, pack_bytes, whole, part_bytes, hashes)
    return stub, header, tail, end + _HASH_BYTES
