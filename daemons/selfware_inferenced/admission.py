"""The queue at work: who waits, who runs, and the gate that is shut while no engine would answer.

Owns the two lists and acts on the decisions of queue.py; every change is told to the tickets it concerns. No I/O:
it is moved by those who enter and leave, and by the watch that shuts and opens the gate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum

from selfware_inferenced import queue
from selfware_inferenced.config import Limits
from selfware_inferenced.errors import QueueFullError
from selfware_inferenced.queue import Priority

NOT_IN_QUEUE = -1


class Interrupt(Enum):
    """Why a request is told to let go."""

    BEGIN_AGAIN = "begin again"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Interruption:
    """One request is told to let go of what it holds."""

    kind: Interrupt
    reason: str = ""


class Ticket:
    """One request in the queue: a handle that its owner waits on and others may interrupt."""

    def __init__(self, request_id: str, priority: Priority, task_id: str = "") -> None:
        self.request_id = request_id
        self.priority = priority
        self.task_id = task_id
        self.arrival = 0  # given at the first entry, kept afterwards
        self.since = 0.0  # when it began to wait or to run
        self.tokens = 0
        self.position = NOT_IN_QUEUE
        self.running = False
        self.interruption: Interruption | None = None
        self.changed = asyncio.Event()
        self.alarm: asyncio.Timeout | None = None  # what the owner is waiting under just now

    def interrupt(self, why: Interruption) -> None:
        """Wake the owner wherever it waits; it reads `interruption`. The first reason stands, but a stop wins."""
        if self.interruption is None or why.kind is Interrupt.STOPPING:
            self.interruption = why
        if self.alarm is not None and not self.alarm.expired():
            self.alarm.reschedule(asyncio.get_running_loop().time())


class Admission:
    """The waiting and the running, at most `max_concurrent` of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: list[Ticket] = []  # in order
        self.running: list[Ticket] = []
        self.shut_because = ""  # "": the gate is open
        self.stopping = False
        self._arrivals = 0

    def enter(self, ticket: Ticket) -> None:
        """Wait, at the place that the priority and the first arrival give. Raises QueueFullError."""
        if not ticket.arrival:
            if len(self.waiting) >= self.limits.max_waiting:
                raise QueueFullError(waiting=len(self.waiting))
            self._arrivals += 1
            ticket.arrival = self._arrivals
        ticket.interruption = Interruption(Interrupt.STOPPING) if self.stopping else None
        ticket.tokens = 0
        ticket.since = asyncio.get_running_loop().time()
        self.waiting = queue.in_order([*self.waiting, ticket])
        self._settle()

    def leave(self, ticket: Ticket) -> None:
        """Give up the slot or the place; harmless for a ticket that holds neither."""
        self.waiting = [one for one in self.waiting if one is not ticket]
        self.running = [one for one in self.running if one is not ticket]
        ticket.running, ticket.position = False, NOT_IN_QUEUE
        self._settle()

    def shut(self, because: str) -> None:
        """Admit nobody until open()."""
        if self.shut_because != because:
            self.shut_because = because
            for ticket in self.waiting:
                ticket.changed.set()

    def open(self) -> None:
        """The engine would answer."""
        if self.shut_because:
            self.shut_because = ""
            self._settle()

    def stop(self) -> None:
        """Interrupt everybody, now and from now on."""
        self.stopping = True
        for ticket in [*self.waiting, *self.running]:
            ticket.interrupt(Interruption(Interrupt.STOPPING))

    def begin_again(self, reason: str) -> None:
        """Whatever runs gives up its slot and queues again at its old place."""
        for ticket in self.running:
            ticket.interrupt(Interruption(Interrupt.BEGIN_AGAIN, reason))

    def relimit(self, limits: Limits) -> None:
        """New settings: a lower limit takes effect as the running ones end."""
        self.limits = limits
        self._settle()

    def _settle(self) -> None:
        if not self.shut_because and not self.stopping:
            self._admit()
            self._preempt()
        for position, ticket in enumerate(self.waiting):
            if ticket.position != position:
                ticket.position = position
                ticket.changed.set()

    def _admit(self) -> None:
        now = asyncio.get_running_loop().time()
        for ticket in queue.admitted(self.waiting, len(self.running), self.limits.max_concurrent):
            self.waiting.remove(ticket)
            self.running.append(ticket)
            ticket.running, ticket.position, ticket.since = True, NOT_IN_QUEUE, now
            ticket.changed.set()

    def _preempt(self) -> None:
        if not self.limits.preemption:
            return
        staying = [one for one in self.running if one.interruption is None]
        leaving = len(self.running) - len(staying)
        for victim, newcomer in queue.victims(self.waiting, staying, leaving):
            victim.interrupt(Interruption(Interrupt.BEGIN_AGAIN, f"preempted by {newcomer.request_id}"))
