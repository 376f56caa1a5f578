"""What the saver wants to record, and the event that says it in the state the thread is in at that moment.

A draft holds serialized values only and is turned into an event anew when another process came in between: what it can
be derived from may have changed. Pure functions of the draft and the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfware_langgraph import layout
from selfware_langgraph.coding import encode
from selfware_langgraph.layout import Blob, Checkpoint, Key, Ref, Write
from selfware_langgraph.state import ThreadState

Typed = tuple[str, bytes]  # the serializer's word and its bytes
Said = tuple[str, bytes]  # kind and payload of an event


@dataclass(frozen=True, slots=True)
class CheckpointDraft:
    """A checkpoint: its serialized parts, and the channels that are as they were in an earlier one."""

    key: Key
    parent: str | None
    body: Typed
    metadata: Typed
    values: Mapping[str, Typed]
    kept: Mapping[str, Ref] = field(default_factory=dict)

    def event(self, state: ThreadState) -> Said:
        """Each value is derived from the parent's if that is shorter, and left out if it is the same."""
        parent = state.checkpoints.get(Key(self.key.ns, self.parent)) if self.parent else None
        blobs: list[Blob] = []
        channels = dict(self.kept)
        for channel, value in self.values.items():
            base = parent.channels.get(channel) if parent else None
            channels[channel] = _placed(value, base, state, blobs)
        checkpoint = Checkpoint(
            key=self.key,
            parent=self.parent,
            body=_placed(self.body, parent.body if parent else None, state, blobs),
            metadata=_placed(self.metadata, parent.metadata if parent else None, state, blobs),
            channels=channels,
        )
        return layout.CHECKPOINT, layout.encode_checkpoint(checkpoint, blobs)


@dataclass(frozen=True, slots=True)
class WritesDraft:
    """What one task wrote after a checkpoint: channel, index, value."""

    key: Key
    task: str
    path: str
    writes: Sequence[tuple[str, int, Typed]]

    def event(self, state: ThreadState) -> Said | None:
        """None when every write is there already: a task's writes are taken once.

        Negative indexes are LangGraph's special writes (errors, interrupts): there the last one counts.
        """
        known = state.writes.get(self.key, {})
        blobs: list[Blob] = []
        writes = [
            Write(self.task, self.path, channel, index, _placed(value, None, state, blobs))
            for channel, index, value in self.writes
            if index < 0 or (self.task, index) not in known
        ]
        return (layout.WRITES, layout.encode_writes(self.key, writes, blobs)) if writes else None


def copy_of(state: ThreadState, key: Key) -> list[CheckpointDraft | WritesDraft]:
    """What records a checkpoint and its writes in another thread."""
    found: list[CheckpointDraft | WritesDraft] = []
    if checkpoint := state.checkpoints.get(key):
        values = {channel: state.value(ref) for channel, ref in checkpoint.channels.items()}
        body, metadata = state.value(checkpoint.body), state.value(checkpoint.metadata)
        found.append(CheckpointDraft(key, checkpoint.parent, body, metadata, values))
    by_task: dict[tuple[str, str], list[tuple[str, int, Typed]]] = {}
    for write in state.writes.get(key, {}).values():
        by_task.setdefault((write.task, write.path), []).append((write.channel, write.index, state.value(write.value)))
    found += [WritesDraft(key, task, path, writes) for (task, path), writes in by_task.items()]
    return found


def _placed(value: Typed, base: Ref | None, state: ThreadState, blobs: list[Blob]) -> Ref:
    kind, data = value
    if base is not None and state.holds(base):
        base_kind, base_data = state.value(base)
        if (base_kind, base_data) == value:
            return base
        if state.may_derive_from(base):
            encoded = encode(data, base_data)
            blobs.append(Blob(kind, encoded, base if encoded.needs_base else None))
            return Ref(0, len(blobs) - 1)
    blobs.append(Blob(kind, encode(data), None))
    return Ref(0, len(blobs) - 1)
