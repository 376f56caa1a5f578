"""A state is compared while it is still being read."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any

from selfware_checkpointd.ahead import Ahead
from selfware_checkpointd.filling import Filling, compared
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Comparer
from tests.bench.workload import Session


class Idle(Executor):
    """A helper that never comes."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


def test_what_is_new_at_the_end_is_known_before_the_rest_is_read() -> None:
    session, chunker = Session(6_000_000), Chunker()
    old = session.encode()
    before, _ = Comparer(chunker).cut(old)
    session.step()
    new = session.encode()
    read_bytes: list[int] = []
    known_at: list[int] = []

    def read(room: memoryview, at: int) -> int:
        room[:] = new[at : at + len(room)]
        read_bytes.append(len(room))
        return len(room)

    class Noted(Ahead):
        def add(self, chunks: Any) -> None:
            known_at.append(sum(read_bytes))

    filling = Filling(bytearray(len(new)), len(new), read, Idle())
    found = list(compared(chunker, bytearray(old), before, filling, Noted(Idle(), b"".join)))
    assert known_at[0] < len(new) / 3
    assert sum(span.count for span, _ in found) == len(Comparer(chunker).cut(new)[0].digests)
    assert sum(read_bytes) == len(new), "and no byte is read twice"
