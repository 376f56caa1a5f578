"""A thread whose answers get lost, whose session is taken over, or whose disk was set back."""

from __future__ import annotations

from typing import Any

import pytest

from selfware_common.errors import UnreachableError
from selfware_common.rpc.checkpoint_pb2 import Event
from selfware_langgraph import layout
from selfware_langgraph.errors import LostPlaceError
from selfware_langgraph.layout import Key
from selfware_langgraph.state import Decoded, ThreadState
from selfware_langgraph.thread import Thread


class FakeJournal:
    """One session in memory, with checkpointd's rules; `after` is called once, after the next append was durable."""

    patience_seconds = 5.0

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.epoch = 0
        self.after: Any = None

    def open(self, session_id: str) -> tuple[int, int]:
        self.epoch += 1
        return self.epoch, len(self.events)

    def append(self, session_id: str, epoch: int, events: list[Event]) -> None:
        if epoch != self.epoch:
            raise LostPlaceError(session=session_id, reason="stale")
        assert [event.sequence for event in events] == [
            len(self.events) + number for number in range(1, len(events) + 1)
        ]
        self.events += events
        after, self.after = self.after, None
        if after:
            after()

    def read(self, session_id: str, after: int) -> list[Event] | None:
        return self.events[after:]


def remove(number: int) -> Any:
    """An event that can be told from the others and changes nothing."""

    def compose(state: ThreadState) -> tuple[str, bytes]:
        return layout.REMOVED, layout.encode_removed([Key("", str(number))])

    return compose


def thread(journal: FakeJournal) -> Thread:
    return Thread("langgraph-t", journal, Decoded(1000))  # type: ignore[arg-type]


def test_an_append_whose_answer_was_lost_and_that_another_writer_followed_is_not_done_twice() -> None:
    journal = FakeJournal()
    first, second = thread(journal), thread(journal)

    def taken_over() -> None:
        second.record("t", remove(2))
        raise LostPlaceError(session="langgraph-t", reason="the retry met a newer writer")

    journal.after = taken_over
    first.record("t", remove(1))
    assert [event.payload for event in journal.events[1:]] == [remove(1)(first.state)[1], remove(2)(first.state)[1]]
    assert first.state.sequence == 3


def test_after_an_append_without_an_answer_the_thread_reads_before_it_goes_on() -> None:
    journal = FakeJournal()
    one = thread(journal)

    def nobody() -> None:
        raise UnreachableError(daemon="d", path="p", reason="r")

    journal.after = nobody
    with pytest.raises(UnreachableError):
        one.record("t", remove(1))
    one.record("t", remove(2))
    assert [event.sequence for event in journal.events] == [1, 2, 3]


def test_a_writer_that_was_fenced_makes_its_event_anew() -> None:
    journal = FakeJournal()
    first, second = thread(journal), thread(journal)
    for number in range(6):
        (first, second)[number % 2].record("t", remove(number))
    assert len(journal.events) == 7


def test_a_journal_that_was_set_back_is_read_from_its_beginning() -> None:
    journal = FakeJournal()
    one = thread(journal)
    for number in range(3):
        one.record("t", remove(number))
    del journal.events[2:]
    journal.epoch += 1
    one.record("t", remove(9))
    assert len(journal.events) == 3
    assert one.refresh().sequence == 3
