"""Selfware's memory for a LangGraph graph: a checkpointer whose every step is durable before the graph goes on.

The idea: a LangGraph thread is a checkpointd session. What the graph puts becomes an event of its journal, and what it
reads is folded from those events. So people who have an agent already get the same memory as Selfware's own: nothing
acknowledged is lost when anything is killed, a large state is stored once and then only what changed in it.

Owns nothing on disk: checkpointd does. Speaks to it over its socket and knows no other daemon.
docs/langgraph.md has the quick start and the layout of the events.
"""

from __future__ import annotations

try:
    from selfware_langgraph.saver import SelfwareSaver
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in {"langgraph", "langchain_core"}:
        raise
    sentence = "selfware_langgraph needs LangGraph's checkpoint library: pip install 'selfware[langgraph]'"
    raise ModuleNotFoundError(sentence, name=error.name) from None

__all__ = ["SelfwareSaver"]
