"""Saving by what changed: the client says what it took over from its base, and proves it."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from selfware_checkpointd.errors import UnknownBaseError, UnusableStateError
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.store import Store, Subject
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Comparer, Span, places
from tests.unit.selfware_checkpointd.helpers import flip, state


def subject(sequence: int) -> Subject:
    return Subject("s", Level.SESSION, sequence, "", sequence)


def first(store: Store) -> str:
    return store.save("s", Level.SESSION, 1, state(1), "", 1).checkpoint_id


def test_of_a_change_only_what_is_new_has_to_come(tmp_path: Path) -> None:
    store, comparer = Store(tmp_path), Comparer(Chunker())
    data, base = state(1, 2_000_000), ""
    for sequence in range(1, 5):
        cut, spans = comparer.cut(data)
        new = [number for at, count in places(spans) for number in range(at, at + count)]
        fresh = [memoryview(data)[cut.starts[number] : cut.starts[number + 1]] for number in new]
        assert sequence == 1 or sum(map(len, fresh)) < 200_000
        info = store.save_change(subject(sequence), base, spans, fresh, cut.root())
        assert store.load(info.checkpoint_id)[1] == data
        assert info.state_hash == store.save("s", Level.TASK, sequence, data, "", 1).state_hash
        store = Store(tmp_path) if sequence == 2 else store  # the list is rebuilt from the packs
        base, data = info.checkpoint_id, data[: 300_000 * sequence] + b"an edit" + data[300_000 * sequence :]
    assert Store(tmp_path).load(base)[0] == info


@pytest.mark.parametrize(
    ("spans", "fresh", "problem"),
    [
        ([Span(0, 1)], [], "do not make up the state"),
        ([Span(0, 10_000)], [], "chunks that its base does not have"),
        ([Span(0, 0)], [], "chunks that its base does not have"),
        ([Span(-1, 1)], [], "1 new chunks were announced, and 0 came"),
        ([], [b"x"], "more new chunks came than were announced"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(
    tmp_path: Path, spans: list[Span], fresh: list[bytes], problem: str
) -> None:
    store = Store(tmp_path)
    base = first(store)
    with pytest.raises(UnusableStateError, match=problem):
        store.save_change(subject(2), base, spans, [memoryview(data) for data in fresh], b"r" * 32)
    assert len(store.checkpoints()) == 1


def test_nothing_is_built_on_a_checkpoint_that_is_gone_damaged_or_of_another_session(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = store.save("t", Level.SESSION, 1, b"theirs", "", 1).checkpoint_id
    damaged = first(store)
    flip(tmp_path / f"{damaged}.pack", 50_000)
    assert not store.verify(damaged).intact
    for base in (damaged, other, "ckpt-00000009"):
        with pytest.raises(UnknownBaseError):
            store.save_change(subject(2), base, [Span(0, 1)], [], b"r" * 32)
    again = store.save("s", Level.SESSION, 2, state(1), "", 2).checkpoint_id
    assert store.verify(again).intact, "what was damaged is stored again"
    assert store.verify(damaged).intact, "and heals what was there"


@pytest.mark.parametrize("known", [False, True])
def test_chunks_that_came_early_are_saved_as_any_others(tmp_path: Path, known: bool) -> None:
    """Whether their groups can be used as they are, or some of them lie somewhere already and others must be made."""
    store, comparer = Store(tmp_path), Comparer(Chunker())
    data, base = state(1, 500_000), ""
    tail = state(2, 900_000)
    for sequence in (1, 2, 3):
        if sequence == 3 and known:
            store.save("s", Level.TASK, 9, tail[300_000:500_000], "", 1)
        cut, spans = comparer.cut(data)
        new = [number for at, count in places(spans) for number in range(at, at + count)]
        chunks = [memoryview(data)[cut.starts[number] : cut.starts[number + 1]] for number in new]
        ahead = store.ahead()
        ahead.add([(cut.digests[number], chunk) for number, chunk in zip(new, chunks, strict=True)][2:])
        info = store.save_change(subject(sequence), base, spans, chunks[:2], cut.root(), ahead=ahead)
        assert store.load(info.checkpoint_id)[1] == data
        base, data = info.checkpoint_id, data[:100_000] + b"an edit" + data[100_000:] + tail[: sequence * 300_000]
    assert Store(tmp_path).load(base)[0] == info


def test_what_came_early_for_nothing_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base, data = first(store), memoryview(state(7, 400_000))
    chunks = [(blake3(chunk).digest(), chunk) for chunk in Chunker().cut(data)]
    ahead = store.ahead()
    ahead.add(chunks)
    with pytest.raises(UnusableStateError, match="do not make up the state"):
        store.save_change(subject(2), base, [Span(0, 1), Span(-1, len(chunks))], [], b"r" * 32, ahead=ahead)
    assert len(store.checkpoints()) == 1
    cut = Comparer(Chunker()).cut(bytes(data))[0]
    info = store.save_change(subject(2), "", [Span(-1, len(chunks))], [data for _, data in chunks], cut.root())
    assert store.load(info.checkpoint_id)[1] == data
