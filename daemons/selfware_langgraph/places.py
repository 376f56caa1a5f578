"""What a LangGraph config says about where: thread, namespace, checkpoint. Parsed once, at the edge."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_core.runnables import RunnableConfig

from selfware_common.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """A thread, a namespace in it ("" is the graph itself), and a checkpoint or none."""

    thread_id: str
    ns: str = ""
    id: str | None = None
    only_ns: str | None = None  # the namespace if the config named one

    @property
    def config(self) -> RunnableConfig:
        """The config that names this place."""
        return {"configurable": {"thread_id": self.thread_id, "checkpoint_ns": self.ns, "checkpoint_id": self.id}}


def place_of(config: RunnableConfig) -> Place:
    """What a config names. Raises UsageError when it names no thread, or one that is not text."""
    given = config.get("configurable") or {}
    thread_id = given.get("thread_id")
    if thread_id is None:
        raise UsageError(problem="The config has no configurable.thread_id: it says which thread to remember.")
    try:
        str(thread_id).encode()
    except UnicodeEncodeError:
        raise UsageError(problem=f"The thread_id {thread_id!r} is not valid text.") from None
    ns, checkpoint_id = given.get("checkpoint_ns"), given.get("checkpoint_id")
    only_ns = None if ns is None else str(ns)
    return Place(str(thread_id), only_ns or "", str(checkpoint_id) if checkpoint_id else None, only_ns)
