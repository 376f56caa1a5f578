"""LangGraph's checkpointer interface, in and out: configs and values here, events in `thread`, bytes in `drafts`.

Only the blocking half: `saver` runs the same for asyncio. What LangGraph gives is serialized once, however often the
event has to be made anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from selfware_common import paths
from selfware_common.errors import UsageError
from selfware_langgraph import layout
from selfware_langgraph.drafts import CheckpointDraft, Said, Typed, WritesDraft, copy_of
from selfware_langgraph.journal import Journal
from selfware_langgraph.layout import Key, Ref
from selfware_langgraph.names import is_ours
from selfware_langgraph.places import Place, place_of
from selfware_langgraph.removal import superseded
from selfware_langgraph.state import Decoded, ThreadState
from selfware_langgraph.thread import Compose, Thread, Threads


class BlockingSaver(BaseCheckpointSaver[str]):
    """The methods that block; `saver.SelfwareSaver` says what they raise."""

    def __init__(
        self,
        socket: str | Path | None = None,
        *,
        serde: SerializerProtocol | None = None,
        patience_seconds: float = 30.0,
        cached_threads: int = 64,
        cached_bytes: int = 64 * 2**20,
    ) -> None:
        """`socket` is checkpointd's; without it the one that selfwarectl would use. Makes no call yet.

        `patience_seconds`: how long one call waits for a checkpointd that is being restarted. `cached_threads` and
        `cached_bytes`: how much is kept in memory to answer quicker; it changes no answer.
        Raises SocketPathTooLongError.
        """
        super().__init__(serde=serde)
        where = Path(socket) if socket is not None else paths.from_environment().socket_of("checkpointd")
        self._journal = Journal(where, patience_seconds)
        self._threads = Threads(self._journal, cached_threads, Decoded(cached_bytes))

    def close(self) -> None:
        """Give the connection back; a later call makes a new one."""
        self._journal.close()

    # ---- reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the newest of its namespace; None if there is none."""
        place = place_of(config)
        thread = self._threads.of(place.thread_id)
        with thread.lock:
            state = thread.refresh()
            if place.id is None:
                newest = state.newest(place.ns)
                return None if newest is None else self._tuple(place.thread_id, state, newest.key)
            return self._tuple(place.thread_id, state, Key(place.ns, place.id))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints of a thread, newest first; without a namespace in the config those of all, without a config
        those of every thread. `filter` is compared with the metadata."""
        place = place_of(config) if config else None
        until = place_of(before).id if before else None
        left = limit
        for thread in self._listed(config):
            with thread.lock:
                state = thread.refresh()
                keys = state.keys(place.only_ns if place else None)
            for key in keys:
                if left is not None and left <= 0:
                    return
                if (place and place.id and key.id != place.id) or (until and key.id >= until):
                    continue
                with thread.lock:
                    found = self._matching(state.thread_id or "", state, key, filter)
                if found is not None:
                    left = None if left is None else left - 1
                    yield found

    # ---- writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Make a checkpoint durable; returns the config that names it. The same one again changes nothing."""
        place = place_of(config)
        key = Key(place.ns, checkpoint["id"])
        body: dict[str, Any] = dict(checkpoint)
        values: dict[str, Any] = body.pop("channel_values")
        body_typed = self.serde.dumps_typed(body)
        metadata_typed = self.serde.dumps_typed(get_checkpoint_metadata(config, metadata))
        typed: dict[str, Typed] = {}

        def compose(state: ThreadState) -> Said:
            kept = self._unchanged(state, place, checkpoint, new_versions)
            for channel in values.keys() - kept.keys() - typed.keys():
                typed[channel] = self.serde.dumps_typed(values[channel])
            new = {channel: typed[channel] for channel in values if channel not in kept}
            return CheckpointDraft(key, place.id, body_typed, metadata_typed, new, kept).event(state)

        self._record(place.thread_id, compose)
        return Place(place.thread_id, key.ns, key.id).config

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Make what a task wrote after a checkpoint durable. Raises UsageError if the config names no checkpoint."""
        place = place_of(config)
        if place.id is None:
            raise UsageError(problem="The config has no configurable.checkpoint_id that the writes belong to.")
        typed = [
            (channel, WRITES_IDX_MAP.get(channel, index), self.serde.dumps_typed(value))
            for index, (channel, value) in enumerate(writes)
        ]
        self._record(place.thread_id, WritesDraft(Key(place.ns, place.id), task_id, task_path, typed).event)

    def delete_thread(self, thread_id: str) -> None:
        """Nothing of the thread is found any more; docs/langgraph.md says when its bytes go."""

        def compose(state: ThreadState) -> Said | None:
            if not state.checkpoints and not state.writes:
                return None
            return layout.REMOVED, layout.encode_removed(None)

        self._record(thread_id, compose)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of these runs, with their writes, from every thread."""
        wanted = set(run_ids)

        def compose(state: ThreadState) -> Said | None:
            keys = [key for key in state.checkpoints if self._metadata(state, key).get("run_id") in wanted]
            return (layout.REMOVED, layout.encode_removed(keys)) if keys else None

        for thread in self._listed(None) if wanted else ():
            with thread.lock:
                thread_id = thread.refresh().thread_id
                if thread_id is not None:
                    thread.record(thread_id, compose)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Every checkpoint and write of one thread also in another one. If it is interrupted, do it again."""
        source = self._threads.of(source_thread_id)
        with source.lock:
            state = source.refresh()
            keys = sorted({*state.checkpoints, *state.writes}, key=lambda key: key.id)  # a parent before its children
        for key in keys:
            with source.lock:
                drafted = copy_of(state, key)
            for draft in drafted:
                self._record(target_thread_id, draft.event)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint of each namespace ("keep_latest") or none ("delete").

        What the kept one needs to rebuild a DeltaChannel is kept too. Raises UsageError for another strategy.
        """
        if strategy not in ("keep_latest", "delete"):
            raise UsageError(problem=f"There is no strategy '{strategy}' for prune: use 'keep_latest' or 'delete'.")

        def compose(state: ThreadState) -> Said | None:
            keys = superseded(state, lambda key: self._delta_channels(state, key))
            return (layout.REMOVED, layout.encode_removed(keys)) if keys else None

        for thread_id in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread_id)
            else:
                self._record(thread_id, compose)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Grows, and differs between two branches that grow from the same checkpoint."""
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:032}.{secrets.randbelow(10**16):016}"

    # ---- helpers

    def _record(self, thread_id: str, compose: Compose) -> None:
        thread = self._threads.of(thread_id)
        with thread.lock:
            thread.record(thread_id, compose)

    def _listed(self, config: RunnableConfig | None) -> Iterator[Thread]:
        """The thread of a config, or all there are."""
        if config is not None:
            yield self._threads.of(place_of(config).thread_id)
            return
        for session_id in self._journal.sessions():
            if is_ours(session_id):
                yield self._threads.of_session(session_id)

    def _matching(
        self, thread_id: str, state: ThreadState, key: Key, wanted: dict[str, Any] | None
    ) -> CheckpointTuple | None:
        if wanted and key in state.checkpoints:
            metadata = self._metadata(state, key)
            if any(metadata.get(name) != value for name, value in wanted.items()):
                return None
        return self._tuple(thread_id, state, key)

    def _tuple(self, thread_id: str, state: ThreadState, key: Key) -> CheckpointTuple | None:
        found = state.checkpoints.get(key)
        if found is None:
            return None
        writes = sorted(state.writes.get(key, {}).values(), key=lambda one: (one.path, one.task, one.index))
        body = self.serde.loads_typed(state.value(found.body))
        values = {channel: self.serde.loads_typed(state.value(ref)) for channel, ref in found.channels.items()}
        parent = Place(thread_id, key.ns, found.parent).config if found.parent else None
        return CheckpointTuple(
            config=Place(thread_id, key.ns, key.id).config,
            checkpoint=cast(Checkpoint, {**body, "channel_values": values}),
            metadata=self._metadata(state, key),
            parent_config=parent,
            pending_writes=[(one.task, one.channel, self.serde.loads_typed(state.value(one.value))) for one in writes],
        )

    def _metadata(self, state: ThreadState, key: Key) -> CheckpointMetadata:
        metadata: CheckpointMetadata = self.serde.loads_typed(state.value(state.checkpoints[key].metadata))
        return metadata

    def _delta_channels(self, state: ThreadState, key: Key) -> set[str]:
        """Those that LangGraph counts steps for: they have a value only in some checkpoints."""
        return set(self._metadata(state, key).get("counters_since_delta_snapshot") or ())

    def _unchanged(
        self, state: ThreadState, place: Place, checkpoint: Checkpoint, new_versions: ChannelVersions
    ) -> dict[str, Ref]:
        """Channels that have the version they had in the parent: their values are there already."""
        parent = state.checkpoints.get(Key(place.ns, place.id)) if place.id else None
        if parent is None:
            return {}
        before = self.serde.loads_typed(state.value(parent.body))["channel_versions"]
        now = checkpoint["channel_versions"]
        return {
            channel: ref
            for channel, ref in parent.channels.items()
            if channel in checkpoint["channel_values"]
            and channel not in new_versions
            and channel in now
            and before.get(channel) == now[channel]
        }
