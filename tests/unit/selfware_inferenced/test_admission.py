"""The queue at work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from selfware_inferenced.admission import Admission, Interrupt, Ticket
from selfware_inferenced.config import Limits
from selfware_inferenced.errors import QueueFullError
from selfware_inferenced.queue import Priority


def in_a_loop(test: Callable[[], None]) -> None:
    async def body() -> None:
        test()

    asyncio.run(body())


def names(tickets: list[Ticket]) -> list[str]:
    return [one.request_id for one in tickets]


def enter(admission: Admission, *wanted: str, priority: Priority = Priority.NORMAL) -> list[Ticket]:
    tickets = [Ticket(name, priority) for name in wanted]
    for ticket in tickets:
        admission.enter(ticket)
    return tickets


def test_a_freed_slot_goes_to_the_next_and_everybody_learns_the_new_place() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=1))
        a, b, c = enter(admission, "a", "b", "c")
        assert (a.running, b.position, c.position) == (True, 0, 1)
        c.changed.clear()
        admission.leave(a)
        assert b.running
        assert c.position == 0
        assert c.changed.is_set()

    in_a_loop(body)


def test_whoever_has_to_wait_again_keeps_the_first_arrival() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=1))
        a, b, _ = enter(admission, "a", "b", "c")
        admission.leave(a)
        admission.enter(a)
        assert names(admission.waiting) == ["a", "c"]
        assert b.running

    in_a_loop(body)


def test_nobody_is_admitted_through_a_shut_gate() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=2))
        admission.shut("engine is starting")
        enter(admission, "a", "b", "c")
        assert admission.running == []
        admission.open()
        assert names(admission.running) == ["a", "b"]

    in_a_loop(body)


def test_one_request_gives_way_for_one_critical_request() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=2))
        a, b = enter(admission, "a", "b")
        (critical,) = enter(admission, "c", priority=Priority.CRITICAL)
        assert a.interruption is None
        assert b.interruption is not None
        assert b.interruption.reason == "preempted by c"
        admission.leave(b)
        admission.enter(b)
        assert critical.running
        assert b.position == 0
        assert not b.interruption

    in_a_loop(body)


def test_the_queue_has_an_end_but_whoever_was_in_it_may_come_back() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=1, max_waiting=1))
        a, _ = enter(admission, "a", "b")
        with pytest.raises(QueueFullError, match="1 requests wait already"):
            enter(admission, "c")
        admission.leave(a)
        admission.enter(a)
        assert names(admission.waiting) == ["a"]

    in_a_loop(body)


def test_a_stop_interrupts_everybody_now_and_later() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=1))
        tickets = enter(admission, "a", "b")
        admission.stop()
        tickets += enter(admission, "c")
        assert {one.interruption.kind for one in tickets if one.interruption} == {Interrupt.STOPPING}
        admission.leave(tickets[0])
        assert admission.running == []

    in_a_loop(body)


def test_a_lower_limit_takes_effect_as_requests_end() -> None:
    def body() -> None:
        admission = Admission(Limits(max_concurrent=2))
        a, _, c = enter(admission, "a", "b", "c")
        admission.relimit(Limits(max_concurrent=1))
        admission.leave(a)
        assert not c.running

    in_a_loop(body)
