"""Keeps a server of many processes as if it were one: started, watched, stopped, and gone altogether.

vLLM ends with status 0 when its worker dies, and leaves EngineCore and workers behind when its API process is killed.
So this process stays their parent: a SIGTERM goes on to the server, whatever ends the server ends its whole group, and
an end that nobody asked for is never a success. The guard does the same should this process be killed itself.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfware_common import http_health
from selfware_common.errors import SelfwareError
from selfware_engine import guard
from selfware_engine.progress import Progress, works

GRACE_SECONDS = 10.0
HEALTH_SECONDS = 0.2
GROUP_ONLY_UMASK = 0o007


class ServerEndedError(SelfwareError):
    """{name} {how} after {seconds} s without being asked to."""

    exit_code = 70  # EX_SOFTWARE
    hint = "Its own reason is in the lines above."


@dataclass(frozen=True)
class Server:
    """What to run and where it will answer GET /health."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    socket_path: Path
    lock: int
    """Descriptor of the held lock, see lock.take."""


@dataclass(frozen=True)
class Pulse:
    """`beat` is called every so many seconds in which the server answered and came further; 0: never."""

    seconds: float = 0.0
    beat: Callable[[], None] = lambda: None
    progress: Progress | None = None


def serve(server: Server, ready: Callable[[float], None], pulse: Pulse = Pulse()) -> None:
    """Until SIGTERM or SIGINT; `ready` gets the seconds it took. Raises ServerEndedError."""
    server.socket_path.unlink(missing_ok=True)
    warden = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(server.lock,),
    )
    try:
        asyncio.run(_serve(server, warden, ready, pulse))
    finally:
        server.socket_path.unlink(missing_ok=True)
        warden.communicate()  # closes its stdin: what is left of the group goes, then the guard


async def _serve(server: Server, warden: subprocess.Popen[bytes], ready: Callable[[float], None], pulse: Pulse) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    began = time.monotonic()
    process = await _launch(server, warden)
    ended = asyncio.create_task(process.wait())
    stopping = asyncio.create_task(stop.wait())
    serving = asyncio.Event()
    looking = asyncio.create_task(_look(server, began, ready, serving, pulse))
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() and not ended.done() and serving.is_set():  # while it loads it would not listen
        process.send_signal(signal.SIGTERM)
        await asyncio.wait({ended}, timeout=GRACE_SECONDS)
    asked = stop.is_set()
    stopping.cancel()
    looking.cancel()
    if not ended.done():
        process.kill()
    code = await ended
    guard.end_group(process.pid)
    if not asked:
        raise ServerEndedError(name=server.name, how=_how(code), seconds=f"{time.monotonic() - began:.1f}")


async def _launch(server: Server, warden: subprocess.Popen[bytes]) -> asyncio.subprocess.Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *server.argv,
            env=dict(server.environ),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            umask=GROUP_ONLY_UMASK,  # the socket is for our group; directories it makes must stay usable
        )
    except OSError as error:
        raise ServerEndedError(name=server.name, how=f"could not be started ({error})", seconds="0.0") from error
    assert warden.stdin is not None
    warden.stdin.write(b"%d\n" % process.pid)
    warden.stdin.flush()
    return process


async def _look(
    server: Server, began: float, ready: Callable[[float], None], serving: asyncio.Event, pulse: Pulse
) -> None:
    while True:
        answers = await http_health.answers(server.socket_path)
        if answers and serving.is_set():
            if pulse.progress is None or await works(server.socket_path, pulse.progress, time.monotonic()):
                pulse.beat()
        elif answers:
            ready(time.monotonic() - began)
            serving.set()
        if serving.is_set() and not pulse.seconds:
            return
        await asyncio.sleep(pulse.seconds if serving.is_set() else HEALTH_SECONDS)


def _how(code: int) -> str:
    return f"ended with status {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
