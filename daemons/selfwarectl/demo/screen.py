"""What the demo shows: one updating line on a terminal, plain lines elsewhere, and the table at the end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from selfware_common.log import printable
from selfware_common.rpc import agent_pb2
from selfwarectl import output
from selfwarectl.demo.demo_job import DemoTask


class Screen:
    """Owns the terminal's last line."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._live = sys.stdout.isatty()
        self._began = time.monotonic()
        self._attempts: dict[str, int] = {}

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        click.echo(printable(text))

    def show(self, name: str, progress: agent_pb2.Progress) -> None:
        """What is happening now; without a terminal only a new attempt is worth a line."""
        task = progress.task
        if task.state not in (agent_pb2.TASK_STATE_RUNNING, agent_pb2.TASK_STATE_WAITING):
            return
        rate = f", {progress.tokens_per_second:.0f} tokens/s" if progress.tokens_per_second else ""
        text = (
            f"[{self._done}/{self._total}] {output.duration(time.monotonic() - self._began)}  {name}, "
            f"attempt {task.attempt}: {progress.sentence}{rate}"
        )
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"\r\x1b[K{printable(text)[:width]}", nl=False)
        elif self._attempts.get(name) != task.attempt:
            click.echo(printable(text))
        self._attempts[name] = task.attempt

    def ended(self, name: str, task: agent_pb2.Task, done: int) -> None:
        """One task is over."""
        self._done = done
        mark = "solved    " if task.state == agent_pb2.TASK_STATE_SOLVED else "NOT solved"
        self.say(f"[{done}/{self._total}] {mark}  {name}: {task.sentence}")

    def table(self, tasks: Sequence[DemoTask], ended: Mapping[str, agent_pb2.Task]) -> None:
        """Task by task: result, tries, tokens, time, commit."""
        rows = []
        for task in tasks:
            result = ended[task.name]
            seconds = (result.ended_unix_nanos - result.started_unix_nanos) / 1e9
            state = "solved" if result.state == agent_pb2.TASK_STATE_SOLVED else "not solved"
            tokens = result.prompt_tokens + result.completion_tokens
            rows.append((task.name, state, result.attempt, tokens, f"{seconds:.1f} s", result.commit[:10]))
        click.echo()
        output.table(("TASK", "RESULT", "TRIES", "TOKENS", "TIME", "COMMIT"), rows)
        click.echo()

    def commits(self, workspace: Path) -> None:
        """The workspace's own log: the work as it is left behind."""
        # The repository holds files that a model wrote, so its hooks and its configuration are not trusted.
        argv = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "log", "--oneline", "--no-color"]
        log = subprocess.run(argv, cwd=workspace, capture_output=True, text=True, check=False).stdout
        click.echo("git log of the workspace:")
        output.block(log)
        click.echo()

    def last(self, solved: int, total: int, seconds: float) -> None:
        """The line that scripts read."""
        self.say(f"solved {solved} of {total} tasks in {output.duration(seconds)}")

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False)
