"""One thread of a graph, read from its session and written to it, also when another process does the same.

checkpointd lets one writer at a time append to a session: whoever opened it last. A process finds out at its next
append; it opens the session again, reads what came meanwhile and makes its event anew. So processes that use a thread
one after the other need not know of each other, and no event is lost or there twice.

Owns the state and the epoch of its session. The caller holds `lock`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from selfware_common import clients
from selfware_common.rpc.checkpoint_pb2 import Event
from selfware_langgraph import layout
from selfware_langgraph.errors import LostPlaceError, ThreadUnreadableError
from selfware_langgraph.journal import Journal
from selfware_langgraph.names import session_of
from selfware_langgraph.state import Decoded, ThreadState

Compose = Callable[[ThreadState], tuple[str, bytes] | None]
PAUSE_SECONDS = 0.02


class Thread:
    """A session as this process sees it."""

    def __init__(self, session_id: str, journal: Journal, decoded: Decoded) -> None:
        self.lock = threading.RLock()
        self.session_id = session_id
        self.state = ThreadState(decoded)
        self._journal = journal
        self._decoded = decoded
        self._epoch: int | None = None

    def refresh(self) -> ThreadState:
        """The state after the last durable event, whoever wrote it. Raises UnreachableError, ThreadUnreadableError."""
        self._catch_up()
        return self.state

    def record(self, thread_id: str, compose: Compose) -> None:
        """Make the event that `compose` makes of the newest state durable; None means that there is nothing to say.

        Raises UnreachableError, NotSavedError, ThreadUnreadableError, LostPlaceError.
        """
        deadline = time.monotonic() + self._journal.patience_seconds
        if self._epoch is None:
            self._become_writer()
        while (event := compose(self.state)) is not None:
            try:
                self._append(thread_id, *event)
            except LostPlaceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0, PAUSE_SECONDS))  # or two processes would fence each other for ever
            else:
                return

    def _append(self, thread_id: str, kind: str, payload: bytes) -> None:
        """Raises LostPlaceError when another process came in between: nothing was written, and this one is the writer
        again."""
        events = self._numbered(thread_id, kind, payload)
        epoch, self._epoch = self._epoch, None  # unknown until it is answered
        try:
            self._journal.append(self.session_id, epoch or 0, events)
        except LostPlaceError:
            # An earlier try of the same append may have been answered to nobody: look for it before doing it again.
            came = {(event.sequence, event.kind, event.payload) for event in self._become_writer()}
            if (events[-1].sequence, kind, payload) not in came:
                raise
        else:
            self._epoch = epoch
            self._apply(events)

    def _numbered(self, thread_id: str, kind: str, payload: bytes) -> list[Event]:
        said = [(kind, payload)]
        if self.state.sequence == 0:
            said.insert(0, (layout.THREAD, layout.encode_thread(thread_id)))
        return [
            Event(
                sequence=self.state.sequence + number,
                kind=one,
                payload=data,
                time_unix_nanos=time.time_ns(),
                trace_id=clients.trace_id.get(),
            )
            for number, (one, data) in enumerate(said, start=1)
        ]

    def _become_writer(self) -> list[Event]:
        """Returns the events that were not known yet."""
        epoch, last_sequence = self._journal.open(self.session_id)
        if last_sequence < self.state.sequence:  # checkpointd's disk was set back: what we knew is not there any more
            self.state = ThreadState(self._decoded)
        came = self._catch_up()
        self._epoch = epoch
        return came

    def _catch_up(self) -> list[Event]:
        came = self._journal.read(self.session_id, self.state.sequence)
        if came is None:
            self.state, self._epoch = ThreadState(self._decoded), None
            return []
        self._apply(came)
        return came

    def _apply(self, events: Sequence[Event]) -> None:
        for event in events:
            try:
                self.state.apply(event.sequence, event.kind, event.payload)
            except (ValueError, KeyError, TypeError) as error:
                self.state, self._epoch = ThreadState(self._decoded), None
                problem = f"event {event.sequence}: {error}"
                raise ThreadUnreadableError(thread=self.session_id, problem=problem) from error


class Threads:
    """The threads used lately."""

    def __init__(self, journal: Journal, most: int, decoded: Decoded) -> None:
        self._journal = journal
        self._most = most
        self._decoded = decoded
        self._lock = threading.Lock()
        self._known: dict[str, Thread] = {}

    def of(self, thread_id: str) -> Thread:
        """The thread with this id."""
        return self.of_session(session_of(thread_id))

    def of_session(self, session_id: str) -> Thread:
        """The thread in this session; the one not used for longest is forgotten and read again when it is needed."""
        with self._lock:
            thread = self._known.pop(session_id, None) or Thread(session_id, self._journal, self._decoded)
            self._known[session_id] = thread
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]
            return thread
