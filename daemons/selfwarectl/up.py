"""`up`: the whole stack in the foreground, left running until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from selfwarectl import output

if TYPE_CHECKING:
    from selfwarectl.foreground import Stack


@click.command()
@click.option("--log-files", is_flag=True, help="Write the daemons' lines to <home>/log/ instead of here.")
def up(log_files: bool) -> int:
    """Run the whole stack in the foreground until Ctrl-C. A daemon that dies is started again at once.

    Everything lies under $SELFWARE_HOME (default .selfware in this directory). Under systemd use
    'systemctl start selfware.target' instead.

    \b
    Examples:
      selfwarectl up
      SELFWARE_HOME=/tmp/trial selfwarectl up --log-files
    """
    from selfware_common import log
    from selfwarectl.foreground import Stack

    log.setup("selfware-stack")
    home = Path(os.environ.get("SELFWARE_HOME") or ".selfware")
    return asyncio.run(_run(Stack(home, log_to_files=log_files)))


async def _run(stack: Stack) -> int:
    from selfware_common.errors import SelfwareError

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _asked, stop, stack)
    await stack.start()
    stopping = asyncio.create_task(stop.wait())
    try:
        ready = asyncio.create_task(stack.wait_ready(stack.start_seconds))
        await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            ready.cancel()
            return 0
        ready.result()
        output.say("the stack is up: 'selfwarectl status' shows it, Ctrl-C stops it, a second Ctrl-C stops it at once")
        failing = asyncio.create_task(stack.failed())
        await asyncio.wait({failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            click.echo(f"selfwarectl: the stack cannot go on: {failing.result()}", err=True)
            return 1
        failing.cancel()
    except SelfwareError as error:
        return output.fail(error)
    else:
        return 0
    finally:
        stopping.cancel()
        await stack.stop()


def _asked(stop: asyncio.Event, stack: Stack) -> None:
    if stop.is_set():
        for name in stack.names:
            stack.kill(name, signal.SIGKILL)
    stop.set()
