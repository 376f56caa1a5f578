"""LangGraph with SqliteSaver, as its documentation shows it: a state with a growing list of messages.

python -m tests.bench.peers.langgraph_steps steps DIR COUNT      one graph run of COUNT steps, 2 KB each
python -m tests.bench.peers.langgraph_steps effect DIR new|again a step that appends a line, then sleeps
"""

from __future__ import annotations

import operator
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from tests.bench.history import text_of_step


class State(TypedDict):
    """What the graph keeps."""

    messages: Annotated[list[str], operator.add]
    step: int


def steps(directory: Path, count: int) -> None:
    with SqliteSaver.from_conn_string(str(directory / "langgraph.db")) as saver:
        grow(saver, count)


def grow(saver: Any, count: int) -> float:
    """A state that grows by 2 KB a step; the seconds it took."""

    def work(state: State) -> dict[str, Any]:
        step = state["step"] + 1
        return {"messages": [text_of_step(step, 2048)], "step": step}

    began = time.perf_counter()
    invoke(saver, work, count, {"messages": [], "step": 0})
    return time.perf_counter() - began


def effect(directory: Path, *, again: bool) -> None:
    def work(state: State) -> dict[str, Any]:
        with (directory / "effects").open("a") as file:
            file.write("effect\n")
        time.sleep(1)
        return {"messages": ["done"], "step": 1}

    run(directory, work, 1, None if again else {"messages": [], "step": 0})


def run(directory: Path, work: Any, count: int, begin: State | None) -> None:
    with SqliteSaver.from_conn_string(str(directory / "langgraph.db")) as saver:
        invoke(saver, work, count, begin)


def invoke(saver: Any, work: Any, count: int, begin: State | None) -> None:
    """One run of the graph, durable at every step."""
    graph = StateGraph(State)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    graph.add_conditional_edges("work", lambda state: END if state["step"] >= count else "work")
    compiled = graph.compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "bench"}, "recursion_limit": count + 10}
    result = compiled.invoke(begin, config, durability="sync")
    assert result["step"] == count


if __name__ == "__main__":
    verb, where, argument = sys.argv[1:]
    if verb == "steps":
        steps(Path(where), int(argument))
    else:
        effect(Path(where), again=argument == "again")
