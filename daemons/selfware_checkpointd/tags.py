"""Names that people give to checkpoints; one that has a name is never deleted.

Few and precious, so the file ``tags`` is written as a whole each time, as two equal copies: one flipped byte does not
let anything go. While neither copy can be read nothing may be deleted at all. Numbers are little-endian; each copy:

      0   8  magic            53 46 57 54 41 47 53 0a ("SFWTAGS\\n")
      8   2  version          1
     10   2  reserved         0
     12   4  length           of the whole copy
     16   4  number of tags
     20      per tag, sorted by name: 8 bytes checkpoint number, 2 bytes name length, name (ASCII)
         4  CRC-32            of everything before it in this copy

Owns that file. Not thread-safe: the store holds a lock.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

from selfware_checkpointd.errors import (
    FormatVersionError,
    InvalidTagError,
    StorageError,
    TagNotFoundError,
    TagsCorruptError,
    TagTakenError,
    disk_error,
)
from selfware_checkpointd.files import write_durably
from selfware_checkpointd.manifest import checkpoint_id

MAGIC = b"SFWTAGS\n"
VERSION = 1
_HEAD = struct.Struct("<8sHHII")
_TAG = struct.Struct("<QH")
_CHECKSUM = struct.Struct("<I")
_NAME = re.compile(r"(?!ckpt-)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def encode_tags(tags: Mapping[str, int]) -> bytes:
    """Both copies."""
    body = b"".join(_TAG.pack(number, len(name)) + name.encode() for name, number in sorted(tags.items()))
    copy = _HEAD.pack(MAGIC, VERSION, 0, _HEAD.size + len(body) + _CHECKSUM.size, len(tags)) + body
    return (copy + _CHECKSUM.pack(crc32(copy))) * 2


def decode_tags(data: bytes) -> dict[str, int] | None:
    """What the first whole copy says, None if there is none; ValueError with the version of a foreign one."""
    for copy in (data[: len(data) // 2], data[len(data) // 2 :]):
        if len(copy) < _HEAD.size + _CHECKSUM.size or _CHECKSUM.pack(crc32(copy[:-4])) != copy[-4:]:
            continue
        magic, version, length, count = (*_HEAD.unpack_from(copy)[:2], *_HEAD.unpack_from(copy)[3:])
        if magic != MAGIC or length != len(copy):
            continue
        if version != VERSION:
            raise ValueError(version)
        tags, at = dict[str, int](), _HEAD.size
        for _ in range(count):
            number, size = _TAG.unpack_from(copy, at)
            at += _TAG.size + size
            tags[copy[at - size : at].decode()] = number
        return tags
    return None


class Tags:
    """All tags of one store."""

    def __init__(self, directory: Path) -> None:
        """Reads the file, if there is one; ``opened`` says what is wrong with it."""
        self._path = directory / "tags"
        self._tags: dict[str, int] | None = {}
        self.opened: list[str] = []
        try:
            self._tags = self._read()
        except StorageError as error:
            self._tags = None
            self.opened.append(error.sentence)
        if self._tags is None and not self.opened:
            self.opened.append(TagsCorruptError(path=self._path).sentence)

    def all(self) -> dict[str, int]:
        """The number of the checkpoint behind each name; raises TagsCorruptError."""
        if self._tags is None:
            self._tags = self._read()  # somebody may have looked after it
        if self._tags is None:
            raise TagsCorruptError(path=self._path)
        return dict(self._tags)

    def names(self) -> dict[int, list[str]]:
        """The names of each checkpoint that has any, by its number; none while they cannot be read."""
        found: dict[int, list[str]] = {}
        for name, number in sorted((self._tags or {}).items()):  # it is replaced as a whole, so no lock is needed
            found.setdefault(number, []).append(name)
        return found

    def tagged(self) -> frozenset[int]:
        """Numbers of checkpoints that must not be deleted; raises TagsCorruptError: then it may be any of them."""
        return frozenset(self.all().values())

    def tag(self, number: int, name: str) -> None:
        """Durable on return. The same again changes nothing; raises TagTakenError, InvalidTagError."""
        if not _NAME.fullmatch(name):
            raise InvalidTagError(name=name)
        tags = self.all()
        if tags.get(name, number) != number:
            raise TagTakenError(name=name, checkpoint_id=checkpoint_id(tags[name]))
        if name not in tags:
            self._write({**tags, name: number})

    def untag(self, name: str) -> int:
        """Take the name away; the number it had. Durable on return. Raises TagNotFoundError."""
        tags = self.all()
        if name not in tags:
            raise TagNotFoundError(name=name)
        number = tags.pop(name)
        self._write(tags)
        return number

    def id_of(self, name: str) -> str:
        """The id of the checkpoint with exactly this name, "" if there is none."""
        number = (self._tags or {}).get(name)
        return "" if number is None else checkpoint_id(number)

    def _write(self, tags: dict[str, int]) -> None:
        try:
            write_durably(self._path, [encode_tags(tags)])
        except OSError as error:
            raise disk_error(error, "the tags", self._path) from error
        self._tags = tags

    def _read(self) -> dict[str, int] | None:
        try:
            return decode_tags(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(what="read the tags", path=self._path, reason=error.strerror or str(error)) from error
        except ValueError as error:
            raise FormatVersionError(path=self._path, version=error.args[0], known=VERSION) from None
