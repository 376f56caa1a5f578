from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from selfware_checkpointd.errors import (
    CheckpointAmbiguousError,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    StorageError,
    UnusableStateError,
)
from selfware_checkpointd.manifest import CheckpointInfo, Level, Run, checkpoint_id, encode_manifest, runs_of
from selfware_checkpointd.packs import encode_end, encode_header
from selfware_checkpointd.store import Store, Subject
from selfware_common.errors import ChunkerMissingError
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Comparer, places, root_of
from tests.unit.selfware_checkpointd.helpers import flip, keep_newest, state


def save(
    store: Store, data: bytes, sequence: int = 1, level: Level = Level.TASK, session_id: str = "s"
) -> CheckpointInfo:
    return store.save(session_id, level, sequence, data, f"step {sequence}", 1_700_000_000_000_000_000 + sequence)


def root(data: bytes) -> bytes:
    return root_of([blake3(chunk).digest() for chunk in Chunker().cut(memoryview(data))])


def packs(directory: Path) -> list[str]:
    """The files of checkpoints; the last one, empty, waits for the next."""
    *names, waiting = sorted(os.listdir(directory))
    assert (directory / waiting).stat().st_size == 0
    return names


def pack(directory: Path, number: int) -> Path:
    return directory / f"{checkpoint_id(number)}.pack"


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
def test_a_state_comes_back_after_a_restart(tmp_path: Path, size: int) -> None:
    data = state(1, size)
    info = save(Store(tmp_path), data, sequence=7)
    again = Store(tmp_path)
    assert again.opened == []
    assert again.load("ckpt-00000001") == (info, data)
    assert info.state_hash == root(data) and info.state_bytes == size and info.label == "step 7"
    assert info.stored_bytes == pack(tmp_path, 1).stat().st_size
    assert again.latest("s") == info


def test_what_is_stored_already_is_not_stored_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = state(1, 2_000_000)
    first = save(store, data, 1)
    edited = data[:900_000] + b"an edit that moves everything behind it" + data[900_000:]
    second = save(store, edited, 2)
    other_session = save(store, edited, 2, session_id="t")
    assert first.stored_bytes > 2_000_000
    assert second.stored_bytes < 150_000
    assert other_session.stored_bytes < 1000
    again = Store(tmp_path)
    assert save(again, edited + b"tail", 3).stored_bytes < 100_000, "the index is rebuilt from the packs"
    assert again.load("ckpt-00000002")[1] == edited


def test_saving_the_same_thing_again_gives_the_same_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = save(store, b"state", 1)
    assert save(store, b"state", 1) == first
    assert save(store, b"state", 1, Level.MICRO) != first
    assert len(store.checkpoints("s")) == 2


@pytest.mark.parametrize("way", ["whole", "file", "change"])
def test_one_save_costs_one_sync(tmp_path: Path, way: str) -> None:
    """However the state comes in: of each checkpoint's pack, when all of it is written."""
    syncs: list[int] = []

    def sync(file: int) -> None:
        syncs.append(os.fstat(file).st_size)
        os.fdatasync(file)

    store, comparer, base = Store(tmp_path, sync=sync), Comparer(Chunker()), ""
    for sequence in range(1, 6):
        data = state(1, 1_000_000 + sequence * 100_000)
        subject = Subject("s", Level.SESSION, sequence, "", 1)
        if way == "whole":
            info = store.save("s", Level.SESSION, sequence, data, "", 1)
        elif way == "file":
            info = store.save_from(subject, len(data), lambda room, at, data=data: _copied(data, room, at))
        else:
            cut, spans = comparer.cut(data)
            new = [n for first, count in places(spans) for n in range(first, first + count)]
            ahead = store.ahead()
            ahead.add([(cut.digests[n], memoryview(data)[cut.starts[n] : cut.starts[n + 1]]) for n in new])
            info = store.save_change(subject, base, spans, [], cut.root(), ahead=ahead)
            base = info.checkpoint_id
        assert len(syncs) == sequence
        assert syncs[-1] == info.stored_bytes
        assert store.load(info.checkpoint_id)[1] == data


def _copied(data: bytes, room: memoryview, at: int) -> int:
    some = data[at : at + min(len(room), 300_000)]
    room[: len(some)] = some
    return len(some)


def test_an_id_may_be_shortened_while_it_is_unique(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 12):
        save(store, b"%d" % sequence, sequence)
    assert store.find("ckpt-00000011").sequence == 11
    with pytest.raises(CheckpointAmbiguousError, match="2 checkpoints begin with ckpt-0000001"):
        store.find("ckpt-0000001")
    with pytest.raises(CheckpointNotFoundError):
        store.find("ckpt-00000099")


def test_a_flipped_byte_in_a_chunk_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, state(1))
    flip(pack(tmp_path, 1), 50_000)
    with pytest.raises(CheckpointCorruptError, match=r"chunk [0-9a-f]{16} in ckpt-00000001 does not match its hash"):
        store.load("ckpt-00000001")
    verdict = store.verify("ckpt-00000001")
    assert not verdict.intact and "does not match its hash" in verdict.problem


@pytest.mark.parametrize("offset", [0, 9, 21, 24, -1, -20, -50, -70, -300])
def test_no_flipped_byte_makes_a_wrong_state(tmp_path: Path, offset: int) -> None:
    save(Store(tmp_path), state(1))
    flip(pack(tmp_path, 1), offset)
    again = Store(tmp_path)
    assert len(again.opened) == 1 and "ckpt-00000001 is damaged" in again.opened[0]
    with pytest.raises(CheckpointCorruptError):
        again.load("ckpt-00000001")


@pytest.mark.parametrize("offset", [0, 9, 21, 24, -1, -20, -50, -70, -300])
def test_a_damaged_index_does_not_hurt_later_checkpoints(tmp_path: Path, offset: int) -> None:
    store = Store(tmp_path)
    save(store, state(1), 1)
    save(store, state(1) + b"more", 2)
    flip(pack(tmp_path, 1), offset)
    again = Store(tmp_path)
    assert again.load("ckpt-00000002")[1] == state(1) + b"more"
    assert [verdict.intact for verdict in again.verify_all()] == [True, False]


def test_a_missing_pack_is_named_by_those_who_need_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, state(1), 1)
    save(store, state(1) + b"more", 2)
    save(store, state(2), 3)
    pack(tmp_path, 1).unlink()
    again = Store(tmp_path)
    with pytest.raises(CheckpointCorruptError, match=r"ckpt-00000001, which holds .* is missing"):
        again.load("ckpt-00000002")
    assert again.load("ckpt-00000003")[1] == state(2)


def test_a_pack_removed_under_the_running_store_is_damage_and_not_a_crash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, state(1), 1)
    pack(tmp_path, 1).unlink()
    with pytest.raises(CheckpointCorruptError):
        store.load("ckpt-00000001")


def test_a_damaged_chunk_is_stored_again_by_the_next_save_and_heals_older_checkpoints(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, state(1), 1)
    flip(pack(tmp_path, 1), 50_000)
    assert not store.verify("ckpt-00000001").intact
    assert save(store, state(1), 2).stored_bytes < 250_000
    assert [verdict.intact for verdict in store.verify_all()] == [True, True]
    assert [verdict.intact for verdict in Store(tmp_path).verify_all()] == [True, True]


@pytest.mark.parametrize("left", [1, 30, 100, -1, -60])
def test_half_a_pack_left_by_a_crash_is_removed(tmp_path: Path, left: int) -> None:
    store = Store(tmp_path)
    save(store, b"one", 1)
    save(store, state(1), 2)
    whole = pack(tmp_path, 2).read_bytes()
    pack(tmp_path, 3).unlink()
    pack(tmp_path, 2).write_bytes(whole[:left])
    again = Store(tmp_path)
    assert [info.number for info in again.checkpoints()] == [1]
    assert again.opened == ["ckpt-00000002 was cut off while it was saved, before anybody knew of it; it is removed"]
    assert save(again, b"two", 2).checkpoint_id == "ckpt-00000002"
    assert packs(tmp_path) == ["ckpt-00000001.pack", "ckpt-00000002.pack"]


def test_a_damaged_pack_that_was_whole_once_is_never_taken_for_one_that_was_cut_off(tmp_path: Path) -> None:
    save(Store(tmp_path), state(1), 1)
    pack(tmp_path, 1).write_bytes(b"")
    again = Store(tmp_path)
    assert [verdict.problem for verdict in again.unreadable()] == [
        "Checkpoint ckpt-00000001 is damaged: its header is damaged."
    ]
    assert save(again, b"two", 2).checkpoint_id == "ckpt-00000002"


def test_a_pack_of_version_1_is_still_read_and_built_on(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden/version-1.pack"
    pack(tmp_path, 1).write_bytes(golden.read_bytes())
    store = Store(tmp_path)
    data = state(1, 3000)
    info, loaded = store.load("ckpt-00000001")
    assert (info.label, loaded) == ("as version 1 wrote it", data)
    assert save(store, data, 8).stored_bytes < 500


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    broken = Store(tmp_path, sync=fail)
    with pytest.raises(StorageError):
        save(broken, state(1))
    assert packs(tmp_path) == [] and broken.checkpoints() == []


def test_a_save_undone_before_its_end_leaves_nothing_behind(tmp_path: Path) -> None:
    def fenced() -> None:
        raise StorageError(what="x", path="y", reason="z")

    store = Store(tmp_path)
    with pytest.raises(StorageError):
        store.save("s", Level.TASK, 1, state(1), "", 1, fenced)
    assert packs(tmp_path) == [] and store.checkpoints() == []


def test_retention_keeps_the_newest_of_each_level_and_every_chunk_they_need(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = state(1)
    for sequence in range(1, 7):
        save(store, data + b"x" * sequence, sequence, Level.TASK if sequence % 2 else Level.MICRO)
    assert keep_newest(store, {Level.TASK: 2, Level.MICRO: 1}).startswith("deleted 3 checkpoints, freed ")
    for now in (store, Store(tmp_path)):
        assert [info.sequence for info in now.checkpoints()] == [6, 5, 3]
        assert all(verdict.intact for verdict in now.verify_all())
        with pytest.raises(CheckpointNotFoundError):
            now.find("ckpt-00000001")
    assert keep_newest(store, {Level.TASK: 2, Level.MICRO: 1}) == "deleted 0 checkpoints, freed 0 bytes"
    assert save(store, b"next", 7).number == 7


def test_retention_frees_what_nobody_needs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 5):
        save(store, state(sequence), sequence)
    keep_newest(store, {Level.TASK: 1})
    assert packs(tmp_path) == ["ckpt-00000004.pack"]
    assert save(store, state(2), 5).stored_bytes > 400_000, "a deleted chunk is no longer believed to be stored"
    assert store.load("ckpt-00000005")[1] == state(2)


def test_retention_never_deletes_the_only_intact_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for sequence in range(1, 4):
        save(store, state(sequence), sequence)
    flip(pack(tmp_path, 3), 50_000)
    keep_newest(store, {Level.TASK: 1})
    assert [info.sequence for info in store.checkpoints()] == [3, 2]
    flip(pack(tmp_path, 2), 50_000)
    save(store, state(9), 9)
    flip(pack(tmp_path, 4), 50_000)
    keep_newest(store, {Level.TASK: 1})
    assert len(store.checkpoints()) == 3, "nothing intact is left: nothing goes"


def test_an_interrupted_deletion_is_finished_by_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, state(1), 1)
    save(store, state(2), 2)
    pack(tmp_path, 1).rename(tmp_path / "ckpt-00000001.chunks")
    again = Store(tmp_path)
    assert [info.number for info in again.checkpoints()] == [2]
    keep_newest(again, {})
    assert packs(tmp_path) == ["ckpt-00000002.pack"]


def test_without_the_compiled_chunker_the_daemon_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyfastcdc.cy", None)
    with pytest.raises(ChunkerMissingError, match="compiled half of pyfastcdc is missing"):
        Store(tmp_path)


def test_a_small_change_in_a_large_state_is_quick(tmp_path: Path) -> None:
    data = bytearray(state(1, 1 << 20) * 16)
    store = Store(tmp_path)
    save(store, bytes(data), 1)
    data[5_000_000:5_100_000] = state(2, 100_000)
    started = time.perf_counter()
    info = save(store, bytes(data), 2)
    assert time.perf_counter() - started < 2
    assert info.stored_bytes < 400_000


def test_neighbouring_chunks_make_one_run() -> None:
    places = [(1, 0), (1, 1), (2, 5), (1, 3), (1, 4), (1, 4)]
    assert runs_of(places) == [Run(1, 0, 2), Run(2, 5, 1), Run(1, 3, 2), Run(1, 4, 1)]
    assert runs_of([]) == []


def test_the_pack_format_is_pinned() -> None:
    info = CheckpointInfo(42, "alpha", Level.SESSION, 99, 1_700_000_000_000_000_000, 12, 0, b"h" * 32, "żółw")
    manifest = encode_manifest(info, [Run(1, 0, 3), Run(42, 7, 1)])
    assert blake3(manifest).hexdigest() == "f860392110f86304da397801ad34e91e10d7c839cdf705208d5a80ca55f9c3c8"
    header = encode_header(42, "alpha")
    assert blake3(header).hexdigest() == "be4990d390aff45c61ffdd0b2fb9563c5ace6c22fa8e12f1ae45ddc4d20394ad"
    assert (
        blake3(encode_end(header, [b"head"], b"manifest", 1234)).hexdigest()
        == "f57d10d53b9460bcf6cc2a88bd6c7fbaf02555bba6bf01e3f7192b10bae17f3c"
    )


def test_the_whole_pack_is_pinned_as_far_as_zstd_is(tmp_path: Path) -> None:
    save(Store(tmp_path), state(1, 50_000))  # random bytes: zstd stores them as they are
    assert (
        blake3(pack(tmp_path, 1).read_bytes()).hexdigest()
        == "9ff045f30f703796abd2236b9210755bdd6c1346a192dc866d66bed614ae636d"
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60_000), st.binary(max_size=2000)), max_size=5))
def test_any_history_of_edits_restores_byte_for_byte(edits: list[tuple[int, int, bytes]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), sync=lambda _: None)
        data = state(3, 60_000)
        history = [data]
        for take, at, text in edits:
            data = data[:at] + text + data[at + take * 1000 :]
            history.append(data)
        infos = [save(store, data, sequence) for sequence, data in enumerate(history, 1)]
        again = Store(Path(directory))
        assert [again.load(info.checkpoint_id)[1] for info in infos] == history


def test_whichever_byte_is_flipped_the_state_is_right_or_refused(tmp_path: Path) -> None:
    data = b"".join(b"line %d of some text\n" % number for number in range(6000))
    save(Store(tmp_path), data)
    whole = pack(tmp_path, 1).read_bytes()
    for offset in range(0, len(whole), max(1, len(whole) // 150)):
        flip(pack(tmp_path, 1), offset)
        with contextlib.suppress(CheckpointCorruptError):
            assert Store(tmp_path).load("ckpt-00000001")[1] == data
        pack(tmp_path, 1).write_bytes(whole)
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        pack(tmp_path, 1).write_bytes(whole[:length])
        with pytest.raises(CheckpointCorruptError):
            Store(tmp_path).load("ckpt-00000001")


@pytest.mark.parametrize("ends_at", [0, 1, 2_000_000, 3_900_000, 3_999_999])
def test_a_file_that_becomes_shorter_while_it_is_read_is_refused_and_the_next_one_taken(
    tmp_path: Path, ends_at: int
) -> None:
    """Wherever it ends: what is read first is its end, by one thread or by two."""
    store, data = Store(tmp_path), state(1, 4_000_000)
    for sequence in (1, 2, 3):
        subject = Subject("s", Level.SESSION, sequence, "", 1)
        there = data[:ends_at] if sequence == 2 else data
        save_it = lambda: store.save_from(subject, len(data), lambda room, at: _copied(there, room, at))  # noqa: B023, E731
        if sequence == 2:
            with pytest.raises(UnusableStateError, match="became shorter"):
                save_it()
        else:
            assert store.load(save_it().checkpoint_id)[1] == data
        data = data[:1_000_000] + b"an edit" + data[1_000_000:]
    assert len(store.checkpoints()) == 2
