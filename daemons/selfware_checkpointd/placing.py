"""Finds a place for every chunk of a new state: where it stood, where the same bytes lie already, or the new pack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

from blake3 import blake3

from selfware_checkpointd.ahead import Chunk
from selfware_checkpointd.chunklist import ChunkList
from selfware_checkpointd.errors import UnusableStateError
from selfware_checkpointd.packing import PackDraft
from selfware_common.state.comparing import Span
from selfware_common.state.scanning import Found

AT_ONCE = 64  # chunks


def hashed(spans: Iterable[Span], fresh: Iterable[memoryview], early: Iterable[Chunk] = ()) -> Iterator[Found]:
    """What a client sent, a few chunks at a time, with our own hashes; UnusableStateError if they are not as many as it
    says. early: the last of them, which came before and have their hashes."""
    coming = chain(((blake3(data).digest(), data) for data in fresh), early)
    for span in spans:
        if span.before >= 0:
            yield span, []
            continue
        came = 0
        while came < span.count:
            found = list(islice(coming, min(AT_ONCE, span.count - came)))
            if not found:
                raise UnusableStateError(problem=f"{span.count} new chunks were announced, and {came} came")
            yield Span(-1, len(found)), found
            came += len(found)
    if next(coming, None) is not None:
        raise UnusableStateError(problem="more new chunks came than were announced")


def placed(
    base: ChunkList,
    found: Iterable[Found],
    places: Mapping[bytes, tuple[int, int]],
    number: int,
    pack: PackDraft,
) -> ChunkList:
    """The new state's chunks with their places; those that had none are in the pack now, which has this number."""
    chunks, own = ChunkList(), dict[bytes, int]()
    for span, fresh in found:
        if span.before >= 0:
            try:
                chunks.take(base, span.before, span.count)
            except IndexError as error:
                raise UnusableStateError(problem=f"it names chunks that its base does not have: {error}") from error
        for digest, data in fresh:
            place = places.get(digest)
            if place is None:
                if digest not in own:
                    own[digest] = pack.add(digest, data)
                place = (number, own[digest])
            chunks.add(digest, len(data), *place)
    return chunks
