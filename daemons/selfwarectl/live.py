"""Progress of one task as it happens: one line that renews itself on a terminal, plain lines elsewhere.

An agent that is killed and comes back costs a line, not the wait: the watch is opened again.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from selfware_common.errors import UnreachableError
from selfware_common.log import printable
from selfwarectl import output, reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selfware_common.rpc import agent_pb2

AWAY_SECONDS = 60.0
AGAIN_SECONDS = 0.5
ENDED = frozenset({"solved", "failed", "cancelled"})


def follow(task_id: str, show: Line) -> agent_pb2.Task:
    """Show the task until it ends and return it. Raises UnreachableError when the agent stays away."""
    away_since: float | None = None
    while True:
        try:
            for progress in _watch(task_id):
                away_since = None
                show.progress(progress)
                if state_of(progress.task) in ENDED:
                    show.close()
                    return progress.task
        except UnreachableError:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY_SECONDS:
                show.close()
                raise
        show.note("the agent is away; waiting for it to come back")
        time.sleep(AGAIN_SECONDS)


def state_of(task: agent_pb2.Task) -> str:
    """queued, running, waiting, solved, failed, cancelled."""
    return str(output.plain(task)["state"])


def _watch(task_id: str) -> Iterator[agent_pb2.Progress]:
    from selfware_common.rpc import agent_pb2, agent_pb2_grpc

    with reach.calling("agent") as channel:
        yield from agent_pb2_grpc.AgentStub(channel).Watch(agent_pb2.WatchRequest(task_id=task_id))


class Line:
    """Where progress goes. It never writes more than the terminal is wide, and nothing in JSON mode."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and not output.wants_json()
        self._plain = not self._live and not output.wants_json()
        self._last = ""
        self._open = False

    def progress(self, progress: agent_pb2.Progress) -> None:
        """One change of the task."""
        task = progress.task
        words = [f"{task.task_id} {state_of(task)}"]
        words += [f"attempt {task.attempt}"] if task.attempt else []
        words += [f"step {task.steps}"] if task.steps else []
        if self._live:
            rate = progress.tokens_per_second
            words += [f"{rate:.0f} tokens/s ({progress.stream_tokens})"] if rate > 0 else []
            words += [output.duration(_elapsed(task))] if task.started_unix_nanos else []
        self._show(f"{' · '.join(words)} · {progress.sentence or task.sentence}")

    def note(self, text: str) -> None:
        """Something that is not progress."""
        self._show(text)

    def close(self) -> None:
        """Leave the last line standing."""
        if self._open:
            click.echo(err=True)
            self._open = False

    def _show(self, text: str) -> None:
        text = printable(text)
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[K{text[:width]}", nl=False, err=True)
            self._open = True
        elif self._plain and text != self._last:
            click.echo(text, err=True)
        self._last = text


def _elapsed(task: agent_pb2.Task) -> float:
    return (task.ended_unix_nanos or time.time_ns()) / 1e9 - task.started_unix_nanos / 1e9
