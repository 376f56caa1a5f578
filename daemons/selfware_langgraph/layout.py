"""The events of a thread, byte by byte: a line of JSON, then the bytes it speaks of.

    payload   one JSON object in UTF-8 without line feeds, 0a, the data of its "blobs" one after the other

    LangGraphThread      {"layout": 1, "thread_id": TEXT}            always event 1 of a session
    LangGraphCheckpoint  {"ns", "id", "parent": ID or null, "body": REF, "metadata": REF,
                          "channels": {NAME: REF, ...}, "blobs": [BLOB, ...]}
    LangGraphWrites      {"ns", "id", "task", "path", "writes": [[CHANNEL, INDEX, REF], ...], "blobs": [BLOB, ...]}
    LangGraphRemoved     {"checkpoints": [[NS, ID], ...]} or {"checkpoints": null}: all that came before

    BLOB  {"type": the serializer's word, "coding", "size": bytes when decoded, "bytes": here, "base": REF or null}
    REF   [SEQUENCE, POSITION]: the blob at that position (from 0) of that event; 0 as the sequence means this event

"body" is LangGraph's checkpoint without its channel_values. A value that did not change is a reference to the event
that brought it, so each is here once. `coding` explains how a blob is derived from its base.

Owns nothing, pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from selfware_langgraph.coding import Coding, Encoded

LAYOUT = 1
_CODINGS = {coding.value: coding for coding in Coding}  # a third of the time that Coding(...) takes
THREAD, CHECKPOINT, WRITES, REMOVED = (
    "LangGraphThread",
    "LangGraphCheckpoint",
    "LangGraphWrites",
    "LangGraphRemoved",
)


class Ref(NamedTuple):
    """Where a blob is."""

    sequence: int  # 0: in the event that says so
    position: int

    def seen_from(self, sequence: int) -> Ref:
        """The same one for a reader of another event."""
        return self if self.sequence else Ref(sequence, self.position)


class Key(NamedTuple):
    """Which checkpoint of a thread."""

    ns: str
    id: str


@dataclass(frozen=True, slots=True)
class Blob:
    """Serialized bytes as they are kept."""

    type: str
    encoded: Encoded
    base: Ref | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One step of the graph."""

    key: Key
    parent: str | None
    body: Ref
    metadata: Ref
    channels: Mapping[str, Ref]


@dataclass(frozen=True, slots=True)
class Write:
    """What one task wrote to one channel after a checkpoint."""

    task: str
    path: str
    channel: str
    index: int
    value: Ref


def encode_thread(thread_id: str) -> bytes:
    """The payload of event 1."""
    return _encode({"layout": LAYOUT, "thread_id": thread_id}, ())


def encode_checkpoint(checkpoint: Checkpoint, blobs: Sequence[Blob]) -> bytes:
    """The payload of a LangGraphCheckpoint."""
    head = {
        "ns": checkpoint.key.ns,
        "id": checkpoint.key.id,
        "parent": checkpoint.parent,
        "body": checkpoint.body,
        "metadata": checkpoint.metadata,
        "channels": dict(checkpoint.channels),
    }
    return _encode(head, blobs)


def encode_writes(key: Key, writes: Sequence[Write], blobs: Sequence[Blob]) -> bytes:
    """The payload of a LangGraphWrites: all by one task."""
    listed = [[write.channel, write.index, write.value] for write in writes]
    head = {"ns": key.ns, "id": key.id, "task": writes[0].task, "path": writes[0].path, "writes": listed}
    return _encode(head, blobs)


def encode_removed(keys: Sequence[Key] | None) -> bytes:
    """The payload of a LangGraphRemoved; None removes everything."""
    return _encode({"checkpoints": None if keys is None else list(keys)}, ())


def decode(payload: bytes) -> tuple[dict[str, Any], list[Blob]]:
    """The line and the blobs. Raises ValueError, KeyError or TypeError where `payload` is not what we wrote."""
    line, _, data = payload.partition(b"\n")
    head = orjson.loads(line)
    blobs, at = [], 0
    for one in head.get("blobs", ()):
        piece = data[at : at + one["bytes"]]
        at += one["bytes"]
        encoded = Encoded(_CODINGS[one["coding"]], piece, one["size"])
        blobs.append(Blob(one["type"], encoded, None if one["base"] is None else Ref(*one["base"])))
    if at != len(data):
        raise ValueError(f"{len(data)} bytes of values came and {at} are spoken of")
    return head, blobs


def checkpoint_of(head: Mapping[str, Any], sequence: int) -> Checkpoint:
    """What a LangGraphCheckpoint says, with references that hold everywhere."""
    return Checkpoint(
        key=Key(head["ns"], head["id"]),
        parent=head["parent"],
        body=Ref(*head["body"]).seen_from(sequence),
        metadata=Ref(*head["metadata"]).seen_from(sequence),
        channels={name: Ref(*ref).seen_from(sequence) for name, ref in head["channels"].items()},
    )


def writes_of(head: Mapping[str, Any], sequence: int) -> tuple[Key, list[Write]]:
    """What a LangGraphWrites says."""
    task, path = head["task"], head["path"]
    writes = [
        Write(task, path, channel, index, Ref(*ref).seen_from(sequence)) for channel, index, ref in head["writes"]
    ]
    return Key(head["ns"], head["id"]), writes


def removed_of(head: Mapping[str, Any]) -> list[Key] | None:
    """What a LangGraphRemoved removes; None is everything."""
    return None if head["checkpoints"] is None else [Key(*key) for key in head["checkpoints"]]


def _encode(head: dict[str, Any], blobs: Sequence[Blob]) -> bytes:
    if blobs:
        head["blobs"] = [
            {
                "type": blob.type,
                "coding": blob.encoded.coding.value,
                "size": blob.encoded.size_bytes,
                "bytes": len(blob.encoded.data),
                "base": blob.base,
            }
            for blob in blobs
        ]
    return b"".join([orjson.dumps(head, default=list), b"\n", *(blob.encoded.data for blob in blobs)])
