"""The format "selfware-tree/1": what the bytes of a saved tree mean. Works on bytes, owns no file.

All numbers are little-endian. A stream is header, contents, blocks, trailer, without padding; equal trees give equal
streams.

```
header, 12 bytes
  0   8  magic            53 46 57 54 52 45 45 0a ("SFWTREE\\n")
  8   2  version          1
 10   2  reserved         0

contents: the bytes of every file, in the order of the entries

block, as many as needed: 44 bytes + entries
  0   4  mark             a5 53 46 54
  4   4  length           of the entries, in bytes
  8   4  number of entries
 12  32  BLAKE3-256       of bytes 0..11 and the entries

entry, 24 bytes + name + target + hash
  0   2  depth            0 is the root, which comes first; a child is one deeper than its directory
  2   1  kind             1 directory, 2 file, 3 symbolic link, 4 pipe, 5 unread
  3   1  name length      0 for the root alone
  4   2  mode             permission bits, at most 07777; a link has 0777, what is unread 0
  6   2  target length    0 unless a link
  8   8  modified         nanoseconds since 1970, signed; what is unread 0
 16   8  content length   0 unless a file
 24      name, target, BLAKE3-256 of the content (32 bytes, a file only)

trailer, 64 bytes
  0   8  length of the contents
  8   8  length of the blocks
 16   8  number of entries
 24  32  BLAKE3-256       of header, blocks and bytes 0..23 of this trailer
 56   8  magic            53 46 57 54 45 4e 44 0a ("SFWTEND\\n")
```

A directory's children follow it at once, sorted by the bytes of their names, each with everything below it. An entry
has a name and not a path, so a path that leaves the root, or leads through a link, cannot be spelled. The hash at the
end covers each content through the hash in its entry: the end can be written without reading again what is unchanged.
A block ends where the CRC-32 of a path says so, so a new file moves no other block's end. Unread is what could not be
captured; a restore leaves alone what it finds there.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from selfware_common.trees.errors import TreeDamagedError, TreeVersionError, printable

VERSION = 1
MAX_PATH_BYTES = 65_535
LINK_MODE = 0o777
BLOCK_HEAD_BYTES = 44
TRAILER_BYTES = 64
HEADER = struct.pack("<8sHH", b"SFWTREE\n", VERSION, 0)

_END = b"SFWTEND\n"
_MARK = b"\xa5SFT"
_ENTRY = struct.Struct("<HBBHHqQ")
_BLOCK = struct.Struct("<4sII")
_TRAILER = struct.Struct("<QQQ")
_HASH_BYTES = 32
_MOST_IN_A_BLOCK = 4096
_ENDS_A_BLOCK = 0x7F  # one path in 128


class Kind(enum.IntEnum):
    """What an entry is."""

    DIRECTORY = 1
    FILE = 2
    LINK = 3
    PIPE = 4
    UNREAD = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the tree. The path is relative to the root, which is b"" itself; its parts may be any bytes.

    offset_bytes counts from the beginning of the stream and is not part of it: it follows from the order.
    """

    path: bytes
    kind: Kind
    mode: int
    modified_unix_nanos: int
    target: bytes = b""
    content_bytes: int = 0
    content_hash: bytes = b""
    offset_bytes: int = 0

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path[self.path.rfind(b"/") + 1 :]

    @property
    def depth(self) -> int:
        """How many parts the path has."""
        return self.path.count(b"/") + 1 if self.path else 0

    def canonical(self) -> bytes:
        """What makes two trees equal: everything but times, for ``comparing.tree_digest``."""
        parts = (self.path, self.target, self.content_hash)
        return struct.pack("<BHIII", self.kind, self.mode, *map(len, parts)) + b"".join(parts)


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the last bytes of a stream say."""

    content_bytes: int
    block_bytes: int
    entries: int


def encode_entry(entry: Entry) -> bytes:
    """The bytes of an entry within a block."""
    name = entry.name
    head = _ENTRY.pack(
        entry.depth,
        entry.kind,
        len(name),
        entry.mode,
        len(entry.target),
        entry.modified_unix_nanos,
        entry.content_bytes,
    )
    return head + name + entry.target + entry.content_hash


class BlockWriter:
    """Gathers entries into blocks; nothing is given out before finish."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._open: list[bytes] = []
        self.entries = 0

    def add(self, entry: Entry) -> None:
        """The next entry, in the order of the stream."""
        self._open.append(encode_entry(entry))
        self.entries += 1
        if len(self._open) >= _MOST_IN_A_BLOCK or zlib.crc32(entry.path) & _ENDS_A_BLOCK == 0:
            self._close()

    def finish(self, content_bytes: int) -> tuple[bytes, bytes]:
        """Blocks and trailer in one piece, and the hash in the trailer."""
        if self._open:
            self._close()
        blocks = b"".join(self._blocks)
        counts = _TRAILER.pack(content_bytes, len(blocks), self.entries)
        digest = _digest(blocks, counts)
        return blocks + counts + digest + _END, digest

    def _close(self) -> None:
        entries = b"".join(self._open)
        head = _BLOCK.pack(_MARK, len(entries), len(self._open))
        self._blocks += (head, blake3(head).update(entries).digest(), entries)
        self._open = []


def decode_header(data: bytes) -> None:
    """Nothing, if this begins a stream that can be read."""
    if data[:8] != HEADER[:8]:
        raise TreeDamagedError(problem="it does not begin like one")
    version = int.from_bytes(data[8:10], "little")
    if version != VERSION:
        raise TreeVersionError(version=version, known=VERSION)
    if data != HEADER:
        raise TreeDamagedError(problem="its header does not match")


def decode_trailer(data: bytes) -> Trailer:
    """The counts; the hash is checked with the blocks."""
    if len(data) != TRAILER_BYTES or data[-8:] != _END:
        raise TreeDamagedError(problem="its end is missing")
    return Trailer(*_TRAILER.unpack(data[: _TRAILER.size]))


def claimed_hash(trailer: bytes) -> bytes:
    """The hash that names the stream, by its own word: to be believed once the stream was read."""
    return trailer[_TRAILER.size : _TRAILER.size + _HASH_BYTES]


def check_blocks(blocks: bytes, trailer: bytes) -> list[memoryview]:
    """The entries of each block, every checksum verified."""
    view, at = memoryview(blocks), 0
    found: list[memoryview] = []
    while at < len(blocks):
        if len(blocks) - at < BLOCK_HEAD_BYTES:
            raise TreeDamagedError(problem=f"block {len(found)} is cut off")
        head = blocks[at : at + _BLOCK.size]
        mark, length, _count = _BLOCK.unpack(head)
        entries = view[at + BLOCK_HEAD_BYTES : at + BLOCK_HEAD_BYTES + length]
        expected = blocks[at + _BLOCK.size : at + BLOCK_HEAD_BYTES]
        if mark != _MARK or len(entries) != length or blake3(head).update(entries).digest() != expected:
            raise TreeDamagedError(problem=f"block {len(found)} does not match its hash")
        found.append(entries)
        at += BLOCK_HEAD_BYTES + length
    if _digest(blocks, trailer[: _TRAILER.size]) != claimed_hash(trailer):
        raise TreeDamagedError(problem="the whole does not match its hash")
    return found


def decode_entries(blocks: list[memoryview], trailer: Trailer) -> Iterator[Entry]:
    """Every entry in order; TreeDamagedError at the first that no capture writes."""
    parents = _Parents()
    count, offset = 0, len(HEADER)
    for block in blocks:
        at = 0
        while at < len(block):
            entry, at = _decode_entry(block, at, parents, offset)
            offset += entry.content_bytes
            count += 1
            yield entry
    if count != trailer.entries or not count:
        raise TreeDamagedError(problem=f"it holds {count} entries and says {trailer.entries}")
    if offset - len(HEADER) != trailer.content_bytes:
        raise TreeDamagedError(problem="the lengths of its files do not add up")


def _decode_entry(block: memoryview, at: int, parents: _Parents, offset: int) -> tuple[Entry, int]:
    if len(block) - at < _ENTRY.size:
        raise TreeDamagedError(problem="an entry is cut off")
    depth, number, name_length, mode, target_length, modified, content_bytes = _ENTRY.unpack_from(block, at)
    at += _ENTRY.size
    hash_length = _HASH_BYTES if number == Kind.FILE else 0
    end = at + name_length + target_length + hash_length
    if end > len(block):
        raise TreeDamagedError(problem="an entry is cut off")
    rest = bytes(block[at:end])
    target = rest[name_length : name_length + target_length]
    path = parents.place(depth, rest[:name_length], number == Kind.DIRECTORY)
    if not _is_possible(number, mode, modified, target, content_bytes):
        raise TreeDamagedError(problem=f"the entry '{printable(path)}' is not possible")
    content_hash = rest[name_length + target_length :]
    return Entry(path, Kind(number), mode, modified, target, content_bytes, content_hash, offset), end


def _is_possible(number: int, mode: int, modified: int, target: bytes, content_bytes: int) -> bool:
    """Whether these fields go with this kind."""
    if mode > 0o7777 or (content_bytes and number != Kind.FILE):
        return False
    if number == Kind.LINK:
        return mode == LINK_MODE and bool(target) and b"\0" not in target
    if number == Kind.UNREAD:
        return not (mode or modified or target)
    return Kind.DIRECTORY <= number <= Kind.PIPE and not target


class _Parents:
    """Turns depths and names into paths, and refuses what is out of order."""

    def __init__(self) -> None:
        self._path = b""
        self._ends: list[int] = []  # of each open directory, the length of its path
        self._last: list[bytes] = []  # and the name of its newest child

    def place(self, depth: int, name: bytes, is_directory: bool) -> bytes:
        if not self._ends:
            if depth or name or not is_directory:
                raise TreeDamagedError(problem="it does not begin with its root")
        else:
            self._child(depth, name)
        if is_directory:
            self._ends.append(len(self._path))
            self._last.append(b"")
        return self._path

    def _child(self, depth: int, name: bytes) -> None:
        if not 1 <= depth <= len(self._ends):
            raise TreeDamagedError(problem=f"the entry after '{printable(self._path)}' is in no directory")
        del self._ends[depth:], self._last[depth:]
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise TreeDamagedError(problem=f"an entry after '{printable(self._path)}' is named '{printable(name)}'")
        if name <= self._last[-1]:
            raise TreeDamagedError(problem=f"'{printable(name)}' comes after '{printable(self._last[-1])}'")
        self._last[-1] = name
        parent = self._path[: self._ends[-1]]
        self._path = parent + b"/" + name if parent else name
        if len(self._path) > MAX_PATH_BYTES:
            raise TreeDamagedError(problem="it holds a path that is too long")


def _digest(blocks: bytes, counts: bytes) -> bytes:
    return blake3(HEADER).update(blocks).update(counts).digest()
