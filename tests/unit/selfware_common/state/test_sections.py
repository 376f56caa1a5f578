"""A system checkpoint's state: what is written comes out, and nothing else is taken for it."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import pytest

from selfware_common.state.sections import (
    SESSION,
    WORKSPACE,
    SectionFile,
    SectionWriter,
    SystemStateError,
    read_sections,
)


def written() -> bytes:
    file = io.BytesIO()
    writer = SectionWriter(file)
    file.write(b'{"tasks":{}}')
    writer.end(SESSION, "main")
    file.write(b"a tree" * 1000)
    writer.end(WORKSPACE, "/srv/one")
    writer.end(WORKSPACE, "/srv/empty")
    writer.finish()
    return file.getvalue()


def test_what_is_written_comes_out() -> None:
    file = io.BytesIO(written())
    session, one, empty = read_sections(file, "ckpt-00000001")
    assert (session.kind, session.name, session.offset, session.length) == (SESSION, "main", 0, 12)
    assert (one.kind, one.name, one.offset, one.length) == (WORKSPACE, "/srv/one", 12, 6000)
    assert (empty.offset, empty.length) == (6012, 0)
    tree = io.BufferedReader(SectionFile(cast(BinaryIO, file), one))
    assert tree.read() == b"a tree" * 1000
    assert tree.seek(-3, io.SEEK_END) == 5997
    assert tree.read(10) == b"ree"
    assert SectionFile(cast(BinaryIO, file), empty).read() == b""


def test_the_bytes_are_these() -> None:
    """docs/formats.md draws them."""
    file = io.BytesIO()
    writer = SectionWriter(file)
    file.write(b"S")
    writer.end(SESSION, "m")
    writer.finish()
    table = b'{"version":1,"sections":[{"kind":"session","name":"m","offset":0,"length":1}]}'
    assert file.getvalue() == b"S" + table + len(table).to_bytes(4, "little") + b"SFWSYST\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "too short"),
        (b'{"tasks":{},"sequence":4}', "no table"),
        (written()[:-1], "no table"),
        (written()[1:], "do not fill"),
        (b"x" + written(), "do not fill"),
        (written().replace(b'"version":1', b'"version":9'), "version is 9"),
        (written().replace(b'"workspace"', b'"workspaze"'), "unknown kind"),
        (written().replace(b'"offset":12', b'"offset":13'), "follow"),
    ],
)
def test_what_is_none_is_refused_in_words(data: bytes, problem: str) -> None:
    with pytest.raises(SystemStateError, match=problem):
        read_sections(io.BytesIO(data), "ckpt-00000001")
