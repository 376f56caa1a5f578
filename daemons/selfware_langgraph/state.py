"""One thread as its events tell it: the fold, and the values behind it.

Values stay as they came, encoded; `value` decodes one when it is asked for, along the chain of values it was derived
from, and keeps what it decoded within a bound shared by all threads. Owns memory only; not for two threads at once.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import count

from selfware_langgraph import layout
from selfware_langgraph.coding import decode
from selfware_langgraph.errors import ThreadUnreadableError
from selfware_langgraph.layout import Blob, Checkpoint, Key, Ref, Write

CHAIN_BYTES = 1 << 30  # decoding one value copies at most this much: about half a second
LEAST_CHAIN_BYTES = 4096
_numbers = count()


@dataclass(frozen=True, slots=True)
class Chain:
    """What it takes to decode a blob that was derived from others."""

    whole_bytes: int  # of the encoded whole value where the chain begins
    derived_bytes: int  # of everything encoded after it
    decoded_bytes: int  # written on the way

    @property
    def may_grow(self) -> bool:
        """Past twice the whole value, a new whole one costs little and reads quicker."""
        return self.derived_bytes <= max(self.whole_bytes, LEAST_CHAIN_BYTES) and self.decoded_bytes <= CHAIN_BYTES


class Decoded:
    """Values decoded lately, the oldest forgotten first; for any thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[int, Ref], bytes] = OrderedDict()

    def get(self, key: tuple[int, Ref]) -> bytes | None:
        """The value, if it is still here."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: tuple[int, Ref], value: bytes) -> None:
        """Keep a value for a while; the newest stays however large it is."""
        with self._lock:
            before = self._values.pop(key, b"")
            self._values[key] = value
            self._bytes += len(value) - len(before)
            while self._bytes > self._max_bytes and len(self._values) > 1:
                _, oldest = self._values.popitem(last=False)
                self._bytes -= len(oldest)


@dataclass(slots=True)
class ThreadState:
    """State = fold(events)."""

    decoded: Decoded
    thread_id: str | None = None
    sequence: int = 0
    checkpoints: dict[Key, Checkpoint] = field(default_factory=dict)
    writes: dict[Key, dict[tuple[str, int], Write]] = field(default_factory=dict)
    _ids: dict[str, list[str]] = field(default_factory=dict)  # by namespace, sorted
    _blobs: dict[Ref, Blob] = field(default_factory=dict)
    _chains: dict[Ref, Chain] = field(default_factory=dict)
    _number: int = field(default_factory=lambda: next(_numbers))

    def apply(self, sequence: int, kind: str, payload: bytes) -> None:
        """One event further. Raises ValueError, KeyError or TypeError when it makes no sense."""
        if sequence != self.sequence + 1:
            raise ValueError(f"event {sequence} came after event {self.sequence}")
        head, blobs = layout.decode(payload)
        if kind == layout.THREAD:
            if head["layout"] != layout.LAYOUT:
                raise ValueError(f"it has layout {head['layout']} and this Selfware reads layout {layout.LAYOUT}")
            self.thread_id = head["thread_id"]
        elif kind == layout.CHECKPOINT:
            self._keep(sequence, blobs)
            self._add(layout.checkpoint_of(head, sequence))
        elif kind == layout.WRITES:
            self._keep(sequence, blobs)
            key, writes = layout.writes_of(head, sequence)
            self.writes.setdefault(key, {}).update({(write.task, write.index): write for write in writes})
        elif kind == layout.REMOVED:
            self._remove(layout.removed_of(head))
        else:
            raise ValueError(f"event {sequence} is a {kind}, which this Selfware does not know")
        self.sequence = sequence

    def newest(self, ns: str) -> Checkpoint | None:
        """The checkpoint with the highest id; ids grow with time."""
        ids = self._ids.get(ns)
        return self.checkpoints[Key(ns, ids[-1])] if ids else None

    def namespaces(self) -> list[str]:
        """All that have a checkpoint."""
        return [ns for ns, ids in self._ids.items() if ids]

    def keys(self, ns: str | None) -> list[Key]:
        """Newest first; None means every namespace."""
        wanted = self.namespaces() if ns is None else [ns]
        found = [Key(one, each) for one in wanted for each in self._ids.get(one, ())]
        return sorted(found, key=lambda key: (key.id, key.ns), reverse=True)

    def value(self, ref: Ref) -> tuple[str, bytes]:
        """The serializer's word and its bytes. Raises ThreadUnreadableError."""
        known = self.decoded.get((self._number, ref))
        try:
            return self._blobs[ref].type, self._decode(ref) if known is None else known
        except (ValueError, KeyError) as error:
            raise ThreadUnreadableError(thread=self.thread_id, problem=str(error)) from error

    def holds(self, ref: Ref) -> bool:
        """Is the blob still here?"""
        return ref in self._blobs

    def may_derive_from(self, ref: Ref) -> bool:
        """Is the chain behind this blob short enough for one more?"""
        return ref in self._blobs and self._chains[ref].may_grow

    def _decode(self, ref: Ref) -> bytes:
        todo = [ref]
        value: bytes | None = None
        while (base := self._blobs[todo[-1]].base) is not None:
            value = self.decoded.get((self._number, base))
            if value is not None:
                break
            todo.append(base)
        for one in reversed(todo):
            value = decode(self._blobs[one].encoded, value)
            self.decoded.put((self._number, one), value)
        return value or b""

    def _keep(self, sequence: int, blobs: Iterable[Blob]) -> None:
        for position, blob in enumerate(blobs):
            ref = Ref(sequence, position)
            data, size = len(blob.encoded.data), blob.encoded.size_bytes
            if blob.base is None:
                chain = Chain(data, 0, size)
            else:
                before = self._chains[blob.base]
                chain = Chain(before.whole_bytes, before.derived_bytes + data, before.decoded_bytes + size)
            self._blobs[ref], self._chains[ref] = blob, chain

    def _add(self, checkpoint: Checkpoint) -> None:
        if checkpoint.key not in self.checkpoints:
            insort(self._ids.setdefault(checkpoint.key.ns, []), checkpoint.key.id)
        self.checkpoints[checkpoint.key] = checkpoint

    def _remove(self, keys: Collection[Key] | None) -> None:
        if keys is None:
            self.checkpoints.clear()
            self.writes.clear()
            self._ids.clear()
        for key in keys or ():
            self.writes.pop(key, None)
            if self.checkpoints.pop(key, None) is not None:
                ids = self._ids[key.ns]
                del ids[bisect_left(ids, key.id)]
        self._forget_unused()

    def _forget_unused(self) -> None:
        used: set[Ref] = set()
        for checkpoint in self.checkpoints.values():
            for ref in (checkpoint.body, checkpoint.metadata, *checkpoint.channels.values()):
                self._mark(ref, used)
        for writes in self.writes.values():
            for write in writes.values():
                self._mark(write.value, used)
        self._blobs = {ref: blob for ref, blob in self._blobs.items() if ref in used}
        self._chains = {ref: chain for ref, chain in self._chains.items() if ref in used}

    def _mark(self, ref: Ref | None, used: set[Ref]) -> None:
        while ref is not None and ref not in used:
            used.add(ref)
            ref = self._blobs[ref].base
