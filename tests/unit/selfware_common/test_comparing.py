"""Comparing with the state before finds the same chunks as scanning the whole state."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from blake3 import blake3

from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Comparer, Cut, Span, compare, places, same_in_memory
from selfware_common.state.scanning import ShorterError, Window, scan
from selfware_common.state.tail import Tail
from tests.bench.workload import Session


def scanned(state: bytes) -> list[tuple[bytes, int]]:
    return [(blake3(chunk).digest(), len(chunk)) for chunk in Chunker().cut(memoryview(state))]


def small_window(state: bytes) -> Window:
    def read(room: memoryview, at: int) -> int:
        some = state[at : at + min(len(room), 50_000)]
        room[: len(some)] = some
        return len(some)

    return Window(len(state), read, memoryview(bytearray(200_000)))


def by_hash(window: Window, before: Cut) -> Cut:
    cut = Cut()
    for span, fresh in scan(Chunker(), window, before):
        if span.before >= 0:
            cut.take(before, span.before, span.count)
        for digest, data in fresh:
            assert blake3(data).digest() == digest
            cut.add(digest, len(data))
    return cut


def compared(comparer: Comparer, state: bytes) -> list[tuple[bytes, int]]:
    before = comparer.before
    tails: list[Tail] = []
    cut, spans = comparer.cut(state, tails.append)
    for tail in tails:
        assert not tail.is_joined or cut.digests[-len(tail.cut.digests) :] == tail.cut.digests
        assert not tail.is_joined or new_from(tail.at, cut, spans) == new_from(tail.at, tail.cut, tail.spans)
    for window in (Window.over(memoryview(state)), small_window(state)):
        assert by_hash(window, before) == cut, "with the hashes alone it is the same"
    assert sum(span.count for span in spans) == len(cut.digests)
    at = 0
    for span in spans:
        if span.before >= 0:
            assert cut.digests[at : at + span.count] == before.digests[span.before : span.before + span.count]
        at += span.count
    return list(zip(cut.digests, [end - start for start, end in pairwise(cut.starts)], strict=True))


def new_from(begin: int, cut: Cut, spans: list[Span]) -> list[bytes]:
    """The digests of the chunks behind this byte that are new."""
    new = (n for first, count in places(spans) for n in range(first, first + count))
    return [cut.digests[n] for n in new if cut.starts[n] >= begin]


def changed(state: bytes, chance: random.Random) -> bytes:
    """Random edits: replaced, inserted, removed, moved, repeated, appended, cut off."""
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(state) + 1)
        size = chance.choice((0, 1, 100, 5000, 70_000, 300_000))
        new = chance.randbytes(size) if chance.random() < 0.7 else state[: size // 2] * 2
        state = state[:at] + new + state[at + chance.choice((0, size)) :]
    return state[: chance.randrange(len(state) + 1)] if chance.random() < 0.2 else state


@pytest.mark.parametrize("seed", range(12))
def test_the_cuts_equal_those_of_a_full_scan_after_any_edit(seed: int) -> None:
    chance = random.Random(seed)
    comparer = Comparer(Chunker())
    state = b"".join(chance.choice((chance.randbytes(3000), bytes(3000), b"abc" * 1000)) for _ in range(400))
    for _ in range(25):
        assert compared(comparer, state) == scanned(state)
        state = changed(state, chance) if state else chance.randbytes(200_000)


def test_the_cuts_equal_those_of_a_full_scan_as_a_session_grows() -> None:
    session, comparer = Session(3_000_000), Comparer(Chunker())
    for _ in range(15):
        state = session.encode()
        assert compared(comparer, state) == scanned(state)
        session.step()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 16_384, 65_536, 65_537])
def test_short_states_and_the_last_chunk_are_never_taken_over_wrongly(size: int) -> None:
    comparer, data = Comparer(Chunker()), random.Random(1).randbytes(size)
    for state in (data, data + b"x", data, data + data, b"", data):
        assert compared(comparer, state) == scanned(state)


def test_what_did_not_change_is_one_span() -> None:
    comparer, data = Comparer(Chunker()), random.Random(1).randbytes(3_000_000)
    comparer.cut(data)
    _, spans = comparer.cut(data[:1_500_000] + b"an edit" + data[1_500_000:])
    assert [span.before < 0 for span in spans] == [False, True, False]


def test_a_source_that_ends_early_is_noticed() -> None:
    with pytest.raises(ShorterError):
        list(scan(Chunker(), Window(1000, lambda _room, _at: 0), Cut()))


def test_what_was_appended_is_told_before_the_rest_is_compared() -> None:
    session, comparer = Session(3_000_000), Comparer(Chunker())
    comparer.cut(session.encode())
    for _ in range(5):
        session.step()
        state, tails = session.encode(), list[Tail]()
        cut, spans = comparer.cut(state, tails.append)
        (tail,) = tails
        assert tail.is_joined
        assert len(state) - tail.at < 1_000_000
        assert new_from(tail.at, cut, spans), "and it has the new chunks"


def test_bytes_are_asked_for_before_they_are_looked_at() -> None:
    chance = random.Random(4)
    old = chance.randbytes(2_000_000)
    new = old[:500_000] + chance.randbytes(300_000) + old[500_100:]
    before = Comparer(Chunker()).cut(old)[0]
    room, there = bytearray(len(new)), 0

    def need(end: int) -> None:
        nonlocal there
        end = min(max(there, end), len(new))
        room[there:end], there = new[there:end], end

    view = memoryview(room)
    cut, _ = compare(Chunker(), view, before, same_in_memory(old, room, len(room), before, need), need=need)
    assert list(zip(cut.digests, [b - a for a, b in pairwise(cut.starts)], strict=True)) == scanned(new)
