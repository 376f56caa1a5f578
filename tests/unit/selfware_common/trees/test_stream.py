"""The stream: equal trees give equal bytes, and no other bytes are ever taken for a tree."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfware_common.errors import SelfwareError
from selfware_common.trees import (
    Entry,
    Kind,
    TreeDamagedError,
    TreeVersionError,
    diff_trees,
    read_tree,
    restore_tree,
    tree_digest,
)
from selfware_common.trees.stream import HEADER, BlockWriter
from tests.unit.selfware_common.trees.helpers import AN_OLD_TIME, make_tree, reading, save, stream

ROOT = Entry(b"", Kind.DIRECTORY, 0o755, 0)
EMPTY = blake3(b"").digest()


def made_of(entries: list[Entry], contents: bytes = b"") -> bytes:
    """A stream with right hashes, whatever it holds."""
    writer = BlockWriter()
    for entry in entries:
        writer.add(entry)
    return HEADER + contents + writer.finish(len(contents))[0]


def file_of(path: bytes, content: bytes = b"") -> Entry:
    return Entry(path, Kind.FILE, 0o644, 0, b"", len(content), blake3(content).digest())


def test_the_bytes_of_the_format_stay_what_they_are() -> None:
    data = made_of(
        [
            ROOT,
            Entry(b"a", Kind.DIRECTORY, 0o700, AN_OLD_TIME),
            file_of(b"a/file", b"content"),
            Entry(b"a/link", Kind.LINK, 0o777, -1, b"../elsewhere"),
            Entry(b"b\xff", Kind.PIPE, 0o600, 1),
            Entry(b"c", Kind.UNREAD, 0, 0),
        ],
        b"content",
    )
    assert blake3(data).hexdigest()[:32] == "568ea24dd2f791656a02905ab699e3fd"


def test_equal_trees_give_equal_streams(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    first = save(tmp_path / "tree")
    assert save(tmp_path / "tree") == first
    restore_tree(stream(first), tmp_path / "copy")
    assert save(tmp_path / "copy") == first
    assert reading(tmp_path / "copy") == reading(tmp_path / "tree")


def test_entries_come_in_order_with_their_contents(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    tree = read_tree(stream(save(tmp_path / "tree")))
    paths = [entry.path for entry in tree]
    assert paths[:5] == [b"", b"a", b"a/b", b"a/b/deep.txt", b"a-b"]
    assert len(tree) == len(paths) == len(set(paths))
    contents = {entry.path: b"".join(tree.content(entry)) for entry in tree if entry.kind == Kind.FILE}
    assert contents[b"a/b/deep.txt"] == b"deep\n"
    assert contents[b"\xff\xfe not utf-8"] == b"named by bytes"
    assert contents[b"program"] == contents[b"program again"]
    assert tree.content_bytes == sum(map(len, contents.values()))
    assert tree.tree_hash == tree_digest(tmp_path / "tree")


def test_a_diff_names_what_a_person_would() -> None:
    before = [ROOT, file_of(b"gone"), file_of(b"kept"), file_of(b"moved"), file_of(b"turned")]
    after = [
        ROOT,
        file_of(b"kept"),
        file_of(b"moved2"),
        Entry(b"turned", Kind.DIRECTORY, 0o755, 0),
        file_of(b"turned/x"),
    ]
    found = diff_trees(stream(made_of(before)), stream(made_of(after)))
    assert found.added == (b"moved2", b"turned/x")
    assert found.deleted == (b"gone", b"moved")
    assert found.changed == (b"turned",)


def test_times_are_no_difference() -> None:
    later = Entry(b"x", Kind.LINK, 0o777, 99, b"y")
    found = diff_trees(stream(made_of([ROOT, Entry(b"x", Kind.LINK, 0o777, 1, b"y")])), stream(made_of([ROOT, later])))
    assert (found.added, found.changed, found.deleted) == ((), (), ())


def test_another_version_is_called_that() -> None:
    data = bytearray(made_of([ROOT]))
    data[8] = 2
    with pytest.raises(TreeVersionError, match="version 2"):
        read_tree(stream(data))


# --- streams that nobody's capture writes, with all hashes right ---


class Forged(BlockWriter):
    """Writes raw entries: depth, kind, name and so on as given."""

    def put(self, depth: int, kind: int, name: bytes, mode: int = 0o755, target: bytes = b"", **more: int) -> Forged:
        content, mtime = more.get("content", 0), more.get("mtime", 0)
        head = struct.pack("<HBBHHqQ", depth, kind, len(name), mode, len(target), mtime, content)
        self._open.append(head + name + target + (EMPTY if kind == Kind.FILE else b""))
        self.entries += 1
        return self

    def whole(self) -> bytes:
        return HEADER + self.finish(0)[0]


def forged() -> Forged:
    return Forged().put(0, Kind.DIRECTORY, b"")


def too_deep() -> bytes:
    writer = forged()
    for depth in range(1, 300):
        writer.put(depth, Kind.DIRECTORY, b"x" * 255)
    return writer.whole()


@dataclass(frozen=True)
class Hostile:
    name: str
    make: Callable[[], bytes]


D, F, L, P, U = Kind.DIRECTORY, Kind.FILE, Kind.LINK, Kind.PIPE, Kind.UNREAD

HOSTILE = [
    Hostile("a parent directory", lambda: forged().put(1, F, b"..").whole()),
    Hostile("a path up", lambda: forged().put(1, F, b"../../etc/passwd").whole()),
    Hostile("an absolute path", lambda: forged().put(1, F, b"/etc/passwd").whole()),
    Hostile("a path for a name", lambda: forged().put(1, D, b"a").put(1, F, b"a/b").whole()),
    Hostile("itself", lambda: forged().put(1, D, b".").whole()),
    Hostile("no name", lambda: forged().put(1, F, b"").whole()),
    Hostile("a zero in a name", lambda: forged().put(1, F, b"a\0b").whole()),
    Hostile("a duplicate", lambda: forged().put(1, F, b"a").put(1, F, b"a").whole()),
    Hostile("a duplicate of another kind", lambda: forged().put(1, L, b"a", 0o777, b"/etc").put(1, D, b"a").whole()),
    Hostile("a duplicate apart", lambda: forged().put(1, D, b"a").put(2, F, b"x").put(1, D, b"a").whole()),
    Hostile("another order", lambda: forged().put(1, F, b"b").put(1, F, b"a").whole()),
    Hostile("a child of a link", lambda: forged().put(1, L, b"a", 0o777, b"/etc").put(2, F, b"passwd").whole()),
    Hostile("a child of a file", lambda: forged().put(1, F, b"a").put(2, F, b"x").whole()),
    Hostile("a child of what was left", lambda: forged().put(1, D, b"a").put(1, F, b"b").put(2, F, b"x").whole()),
    Hostile("a second root", lambda: forged().put(0, D, b"").whole()),
    Hostile("a root with a name", lambda: Forged().put(0, D, b"x").whole()),
    Hostile("a file for a root", lambda: Forged().put(0, F, b"").whole()),
    Hostile("no root", lambda: Forged().put(1, F, b"a").whole()),
    Hostile("nothing", lambda: Forged().whole()),
    Hostile("a kind that is none", lambda: forged().put(1, 6, b"a").whole()),
    Hostile("kind zero", lambda: forged().put(1, 0, b"a").whole()),
    Hostile("a mode with file type bits", lambda: forged().put(1, P, b"a", 0o10644).whole()),
    Hostile("a link to nothing", lambda: forged().put(1, L, b"a", 0o777).whole()),
    Hostile("a link with a zero", lambda: forged().put(1, L, b"a", 0o777, b"x\0y").whole()),
    Hostile("a link with a mode", lambda: forged().put(1, L, b"a", 0o644, b"x").whole()),
    Hostile("a file with a target", lambda: forged().put(1, F, b"a", 0o644, b"x").whole()),
    Hostile("a directory with content", lambda: forged().put(1, D, b"a", content=7).whole()),
    Hostile("a file longer than all", lambda: forged().put(1, F, b"a", content=1 << 63).whole()),
    Hostile("unread with a time", lambda: forged().put(1, U, b"a", 0, mtime=1).whole()),
    Hostile("a path too long", too_deep),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_stream_is_refused_and_changes_nothing(hostile: Hostile, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mine").write_text("mine")
    before = reading(tmp_path)
    with pytest.raises(TreeDamagedError):
        restore_tree(stream(hostile.make()), tmp_path / "root")
    assert reading(tmp_path) == before


def test_a_file_with_another_content_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    before = reading(tmp_path)
    with pytest.raises(TreeDamagedError, match="'file' does not match"):
        restore_tree(stream(made_of([ROOT, file_of(b"file", b"right")], b"wrong")), tmp_path)
    assert reading(tmp_path) == before


RAW = st.tuples(
    st.integers(0, 3),
    st.sampled_from([1, 1, 2, 3, 4, 6]),
    st.sampled_from([b"a", b"b", b"c", b"d", b"a/b", b"..", b"", b"\xff"]),
    st.sampled_from([0o777, 0o700, 0o4755, 0o10755]),
    st.sampled_from([b"", b"", b"/etc", b"../..", b"a\0"]),
)


@settings(max_examples=300, deadline=None)
@given(entries=st.lists(RAW, max_size=8))
def test_a_forged_stream_is_refused_or_becomes_the_tree_that_it_says(
    entries: list[tuple[int, int, bytes, int, bytes]],
) -> None:
    writer = forged()
    for depth, kind, name, mode, target in entries:
        writer.put(depth, kind, name, mode, target if kind == Kind.LINK else b"")
    data = writer.whole()
    with tempfile.TemporaryDirectory() as base:
        root = Path(base, "root")
        try:
            restore_tree(stream(data), root, set_id=True)
        except TreeDamagedError:
            assert not root.exists()
        else:
            assert list(read_tree(stream(save(root)))) == list(read_tree(stream(data)))
        assert set(os.listdir(base)) <= {"root"}


# --- damage ---


def is_refused(data: bytes) -> bool:
    try:
        read_tree(stream(data)).check_contents()
    except SelfwareError:
        return True
    return False


def test_no_truncation_is_taken_for_a_tree(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("some text")
    (tmp_path / "b").mkdir()
    data = save(tmp_path)
    assert not is_refused(data)
    assert all(is_refused(data[:length]) for length in range(len(data)))
    assert is_refused(data + b"\0")


def test_no_flipped_bit_is_taken_for_a_tree(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("some text")
    (tmp_path / "b").symlink_to("a")
    data = bytearray(save(tmp_path))
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert is_refused(data), f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 0x2F})
LEAVES = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda target: ("link", target), st.binary(min_size=1, max_size=40).filter(lambda t: 0 not in t)),
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), max_size=4),
    max_leaves=20,
)


def build(root: bytes, tree: dict[bytes, object], chance: random.Random) -> None:
    for name, what in tree.items():
        path = root + b"/" + name
        if isinstance(what, dict):
            os.mkdir(path)
            build(path, what, chance)
            os.chmod(path, chance.choice([0o700, 0o755, 0o711, 0o2775, 0o1777]))
        elif isinstance(what, tuple):
            os.symlink(what[1], path)
        elif isinstance(what, bytes):
            with open(path, "wb") as file:
                file.write(what)
            os.chmod(path, chance.choice([0o600, 0o644, 0o755, 0o400]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=TREES, after=TREES, seed=st.integers(0, 1 << 30))
def test_any_tree_becomes_any_other_tree(before: dict[bytes, object], after: dict[bytes, object], seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as base:
        one, other = Path(base, "one"), Path(base, "other")
        for root, tree in ((one, before), (other, after)):
            root.mkdir()
            build(str(root).encode(), tree, chance)
        data = save(other)
        restore_tree(stream(data), one)
        assert reading(one) == reading(other)
        assert save(one) == data
        again = restore_tree(stream(data), one)
        assert (again.created, again.changed, again.deleted) == (0, 0, 0)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0), change=st.integers(1, 255), cut=st.booleans(), length=st.integers(1, 50))
def test_damage_anywhere_is_never_taken_for_a_tree(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int, cut: bool, length: int
) -> None:
    data = bytearray(_large(tmp_path_factory))
    place %= len(data)
    if cut:
        del data[place : place + length]
    else:
        data[place] ^= change
    assert is_refused(data)


_kept: list[bytes] = []


def _large(factory: pytest.TempPathFactory) -> bytes:
    if not _kept:
        root = factory.mktemp("large") / "tree"
        make_tree(root)
        for number in range(300):
            (root / f"{number}.txt").write_text(f"{number}\n" * number)
        _kept.append(save(root))
    return _kept[0]
