"""SelfwareSaver against a real checkpointd: LangGraph's own conformance suite, kills, two processes, a real graph."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph.checkpoint.base", reason="the extra is not installed: pip install 'selfware[langgraph]'")
pytest.importorskip("langgraph.graph", reason="langgraph is not installed: packaging/bootstrap dev")

from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from selfware_common.errors import UnreachableError, UsageError
from selfware_langgraph import SelfwareSaver

EVERY_CAPABILITY = {
    "put",
    "put_writes",
    "get_tuple",
    "list",
    "delete_thread",
    "delete_for_runs",
    "copy_thread",
    "prune",
}


class Server:
    """One checkpointd process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "run/checkpointd/api.sock"
        self.start()

    def start(self) -> None:
        environ = {**os.environ, "SELFWARE_HOME": str(self.home)}
        argv = [sys.executable, "-m", "selfware_checkpointd"]
        self.process = subprocess.Popen(argv, env=environ, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        started = Server(Path(directory))
        yield started
        started.kill()


def config_of(thread: str, checkpoint_id: str | None = None) -> Any:
    configurable = {"thread_id": thread, "checkpoint_ns": ""}
    return {"configurable": configurable | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


def put(saver: BaseCheckpointSaver[str], config: Any, value: Any, step: int = 0) -> Any:
    checkpoint = empty_checkpoint()
    version = saver.get_next_version(None, None)
    checkpoint["channel_values"], checkpoint["channel_versions"] = {"value": value}, {"value": version}
    return saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {"value": version})


def values(saver: SelfwareSaver, thread: str) -> list[Any]:
    """Of every checkpoint, oldest first."""
    return [one.checkpoint["channel_values"]["value"] for one in saver.list(config_of(thread))][::-1]


def test_langgraphs_own_conformance_suite_passes_in_every_capability(server: Server) -> None:
    @checkpointer_test(name="SelfwareSaver")
    async def made() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        async with SelfwareSaver(server.socket) as saver:
            yield saver

    report = asyncio.run(validate(made))
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert not failures
    assert {name for name, result in report.results.items() if result.passed} == EVERY_CAPABILITY
    assert report.conformance_level() == "FULL"


def test_killing_checkpointd_loses_nothing_acknowledged_and_the_saver_goes_on(server: Server) -> None:
    steps_before_a_kill = threading.Semaphore(0)
    stop = threading.Event()

    def kill_again_and_again() -> None:
        while True:
            for _ in range(60):
                steps_before_a_kill.acquire()
            if stop.is_set():
                return
            server.kill()  # while the next put is under way
            server.start()
            kills.append(1)

    kills: list[int] = []
    killer = threading.Thread(target=kill_again_and_again)
    with SelfwareSaver(server.socket, patience_seconds=60) as saver:
        config = config_of("kills")
        killer.start()
        try:
            for step in range(400):
                config = put(saver, config, step, step)
                steps_before_a_kill.release()
        finally:
            stop.set()
            steps_before_a_kill.release(60)
            killer.join()
        assert len(kills) >= 4
        assert values(saver, "kills") == list(range(400))
    server.kill()
    server.start()
    with SelfwareSaver(server.socket) as another:
        assert values(another, "kills") == list(range(400))


ONE_PUT = """
import sys
from tests.process.test_langgraph import SelfwareSaver, config_of, put
with SelfwareSaver(sys.argv[1]) as saver:
    for line in sys.stdin:
        newest = saver.get_tuple(config_of("shared"))
        put(saver, newest.config if newest else config_of("shared"), int(line))
        print("done", flush=True)
"""


def test_two_processes_that_alternate_see_and_extend_each_others_steps(server: Server) -> None:
    argv = [sys.executable, "-c", ONE_PUT, str(server.socket)]
    both = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for step in range(20):
        process = both[step % 2]
        assert process.stdin and process.stdout
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    for process in both:
        process.communicate(timeout=20)
        assert process.returncode == 0
    with SelfwareSaver(server.socket) as saver:
        assert values(saver, "shared") == list(range(20))


def test_two_savers_that_write_one_thread_at_once_lose_and_repeat_nothing(server: Server) -> None:
    def write(begin: int) -> None:
        with SelfwareSaver(server.socket) as saver:
            for step in range(begin, begin + 40):
                put(saver, config_of("crowd"), step)

    writers = [threading.Thread(target=write, args=(begin,)) for begin in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with SelfwareSaver(server.socket) as saver:
        assert sorted(values(saver, "crowd")) == [*range(40), *range(100, 140)]


class State(TypedDict):
    """What the graph keeps."""

    messages: Annotated[list[str], operator.add]


def graph_that_asks(saver: SelfwareSaver) -> Any:
    def think(state: State) -> dict[str, Any]:
        return {"messages": ["thought"]}

    def ask(state: State) -> dict[str, Any]:
        return {"messages": [interrupt("may I?")]}

    graph = StateGraph(State)
    graph.add_node("think", think)
    graph.add_node("ask", ask)
    graph.add_edge(START, "think")
    graph.add_edge("think", "ask")
    graph.add_edge("ask", END)
    return graph.compile(checkpointer=saver)


def test_a_graph_goes_on_after_an_interrupt_in_another_saver_on_a_restarted_checkpointd(server: Server) -> None:
    config: Any = {"configurable": {"thread_id": "a talk: ünïcode / and more"}}
    with SelfwareSaver(server.socket) as saver:
        asked = graph_that_asks(saver).invoke({"messages": ["hello"]}, config)
        assert asked["__interrupt__"][0].value == "may I?"
    server.kill()
    server.start()
    with SelfwareSaver(server.socket) as saver:
        graph = graph_that_asks(saver)
        assert graph.get_state(config).next == ("ask",)
        assert graph.invoke(Command(resume="yes"), config) == {"messages": ["hello", "thought", "yes"]}
        history = [len(one.values.get("messages", ())) for one in graph.get_state_history(config)]
        assert history == [3, 2, 1, 0]


def test_a_pruned_graph_with_a_delta_channel_keeps_its_value(server: Server) -> None:
    delta = pytest.importorskip("langgraph.channels.delta", reason="this LangGraph has no DeltaChannel")

    def extend(said: list[str], more: list[list[str]]) -> list[str]:
        return said + [one for each in more for one in each]

    channel = delta.DeltaChannel(extend, list, snapshot_frequency=3)
    schema: Any = TypedDict("Delta", {"messages": Annotated[list[str], channel]})  # type: ignore[operator]
    graph: Any = StateGraph(schema)
    graph.add_node("work", lambda state: {"messages": [str(len(state["messages"]))]})
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    with SelfwareSaver(server.socket) as saver:
        compiled = graph.compile(checkpointer=saver)
        for _ in range(4):
            compiled.invoke({"messages": ["hello"]}, config_of("delta"))
            before = compiled.get_state(config_of("delta")).values
            saver.prune(["delta"])
            assert compiled.get_state(config_of("delta")).values == before
        assert before["messages"] == ["hello", "1", "hello", "3", "hello", "5", "hello", "7"]


def test_the_same_graph_under_asyncio(server: Server) -> None:
    async def run() -> Any:
        config: Any = {"configurable": {"thread_id": "async"}}
        async with SelfwareSaver(server.socket) as saver:
            graph = graph_that_asks(saver)
            await graph.ainvoke({"messages": ["hello"]}, config)
            return await graph.ainvoke(Command(resume="yes"), config)

    assert asyncio.run(run()) == {"messages": ["hello", "thought", "yes"]}


def test_a_growing_history_is_stored_once_and_not_at_every_step(server: Server) -> None:
    text = os.urandom(300 * 1024).hex()  # 2 KB a step that nothing can compress below half
    said: list[str] = []
    with SelfwareSaver(server.socket) as saver:
        config = config_of("long")
        for step in range(300):
            said.append(text[step * 2048 : (step + 1) * 2048])
            config = put(saver, config, list(said), step)
    with SelfwareSaver(server.socket) as another:
        newest = another.get_tuple(config_of("long"))
        assert newest and newest.checkpoint["channel_values"]["value"] == said
        first = list(another.list(config_of("long")))[-1]
        assert first.checkpoint["channel_values"]["value"] == said[:1]
    journal = sum(path.stat().st_size for path in server.home.rglob("journal/*"))
    assert journal < 4 * 300 * 1024, f"{journal} bytes for 300 KB of news"


def test_a_deleted_thread_is_empty_and_can_begin_again(server: Server) -> None:
    with SelfwareSaver(server.socket) as saver:
        config = put(saver, config_of("gone"), "before")
        saver.put_writes(config, [("value", "written")], "task")
        saver.delete_thread("gone")
        assert saver.get_tuple(config) is None
        put(saver, config_of("gone"), "after")
        assert values(saver, "gone") == ["after"]
    with SelfwareSaver(server.socket) as another:
        assert values(another, "gone") == ["after"]


def test_bad_input_and_an_absent_checkpointd_get_one_sentence(server: Server, tmp_path: Path) -> None:
    with SelfwareSaver(server.socket) as saver:
        with pytest.raises(UsageError, match=r"no configurable\.thread_id"):
            saver.get_tuple({"configurable": {}})
        with pytest.raises(UsageError, match="not valid text"):
            saver.get_tuple(config_of("\ud800"))
        with pytest.raises(UsageError, match="no strategy 'newest'"):
            saver.prune(["x"], strategy="newest")
        with pytest.raises(UsageError, match="checkpoint_id"):
            saver.put_writes(config_of("x"), [("a", 1)], "task")
    with (
        SelfwareSaver(tmp_path / "no.sock", patience_seconds=0.2) as saver,
        pytest.raises(UnreachableError, match="Cannot reach selfware-checkpointd"),
    ):
        saver.get_tuple(config_of("x"))
