"""What a system checkpoint's state is made of: the session's own state, and the tree of each workspace.

One file, so that conversation and files can only be saved, kept, thinned out and restored together:

    sections    one after the other, nothing between them
    table       JSON: {"version": 1, "sections": [{"kind", "name", "offset", "length"}, ...]}
      0   4     table length, little-endian
      4   8     magic 53 46 57 53 59 53 54 0a ("SFWSYST\\n")

kind is "session" (name: the session id; what the agent folded) or "workspace" (name: its absolute path; a stream of
``selfware_common.trees``). The table comes last, so nothing has to be known before it was written, and what did not
change stays the same run of bytes. Integrity is the checkpoint's, whose every chunk is verified.
"""

from __future__ import annotations

import io
import struct
from dataclasses import asdict, dataclass
from typing import BinaryIO

import grpc
import orjson

from selfware_common.errors import SelfwareError

MAGIC = b"SFWSYST\n"
VERSION = 1
SESSION, WORKSPACE = "session", "workspace"
MOST_TABLE_BYTES = 16 * 1024 * 1024
_END = struct.Struct("<I8s")


class SystemStateError(SelfwareError):
    """{what} is not what a system checkpoint holds: {problem}."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 65  # EX_DATAERR
    hint = "Choose a checkpoint of level 'system': selfwarectl checkpoints ls"


@dataclass(frozen=True, slots=True)
class Section:
    """One part; offset and length in bytes."""

    kind: str
    name: str
    offset: int
    length: int


class SectionWriter:
    """Writes the sections of one state into a file, from its present position: write, then ``end`` each, then
    ``finish``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = self._at = file.tell()
        self._sections: list[Section] = []

    def end(self, kind: str, name: str) -> Section:
        """What was written to the file since the last call is this section."""
        at = self._file.tell()
        section = Section(kind, name, self._at - self._start, at - self._at)
        self._sections.append(section)
        self._at = at
        return section

    def finish(self) -> None:
        """Write the table. Nothing may have been written since the last ``end``."""
        table = orjson.dumps({"version": VERSION, "sections": [asdict(one) for one in self._sections]})
        self._file.write(table + _END.pack(len(table), MAGIC))


def read_sections(file: BinaryIO, what: str) -> list[Section]:
    """The sections of the state in a seekable file. Raises SystemStateError, which calls it ``what``."""
    size = file.seek(0, io.SEEK_END)
    try:
        if size < _END.size:
            raise ValueError("it is too short")
        file.seek(size - _END.size)
        length, magic = _END.unpack(file.read(_END.size))
        if magic != MAGIC or length > min(MOST_TABLE_BYTES, size - _END.size):
            raise ValueError("it has no table of sections")
        file.seek(size - _END.size - length)
        table = orjson.loads(file.read(length))
        if table["version"] != VERSION:
            raise ValueError(f"its version is {table['version']}, and this Selfware reads {VERSION}")
        sections = [Section(**one) for one in table["sections"]]
        _check(sections, size - _END.size - length)
    except (ValueError, KeyError, TypeError) as error:
        raise SystemStateError(what=what, problem=str(error)) from error
    return sections


def sections_of(file: BinaryIO, what: str) -> list[Section]:
    """The same for any state: one that was saved without files has no sections."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - len(MAGIC)))
    return read_sections(file, what) if file.read(len(MAGIC)) == MAGIC else []


def session_part(file: BinaryIO, what: str) -> bytes:
    """What the agent folded, in any state: the session's section, or all of one that was saved without files."""
    own = [one for one in sections_of(file, what) if one.kind == SESSION]
    file.seek(own[0].offset if own else 0)
    return file.read(own[0].length if own else -1)


def _check(sections: list[Section], size: int) -> None:
    at = 0
    for one in sections:
        if one.kind not in (SESSION, WORKSPACE) or not isinstance(one.name, str):
            raise ValueError(f"it has a section of unknown kind {one.kind!r}")
        if one.offset != at or one.length < 0:
            raise ValueError("its sections do not follow one another")
        at += one.length
    if at != size:
        raise ValueError("its sections do not fill it")


class SectionFile(io.RawIOBase):
    """One section as a seekable file of its own; the file it lies in stays its owner's."""

    def __init__(self, file: BinaryIO, section: Section) -> None:
        self._file, self._section, self._at = file, section, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._section.length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._section.length - self._at))
        self._file.seek(self._section.offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
