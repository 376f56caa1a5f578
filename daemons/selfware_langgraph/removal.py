"""Which checkpoints of a thread are superseded: a pure function of its state."""

from __future__ import annotations

from collections.abc import Callable, Collection

from selfware_langgraph.layout import Key
from selfware_langgraph.state import ThreadState


def superseded(state: ThreadState, delta_channels: Callable[[Key], Collection[str]]) -> list[Key]:
    """All but the newest of each namespace and what that one is rebuilt from.

    LangGraph's DeltaChannel stores its value only now and then: a checkpoint in between needs its ancestors, with
    their writes, back to one that has the value of each of its `delta_channels`.
    """
    kept: set[Key] = set()
    for ns in state.namespaces():
        checkpoint = state.newest(ns)
        missing: set[str] | None = None
        while checkpoint is not None and missing != set():
            kept.add(checkpoint.key)
            missing = (set(delta_channels(checkpoint.key)) if missing is None else missing) - checkpoint.channels.keys()
            checkpoint = state.checkpoints.get(Key(ns, checkpoint.parent)) if checkpoint.parent else None
    return [key for key in {*state.checkpoints, *state.writes} if key not in kept]
