"""The foreground supervisor with small stand-in programs: deaths, back-off, order of stop, and its own death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from selfware_common.errors import AlreadyRunningError
from selfware_common.settings import Settings
from selfwarectl.foreground import NotReadyError, Stack, StackFailedError, programs_of
from selfwarectl.supervised import Backoff, Program

READY = "import os,socket; s=socket.socket(1,2); s.connect(os.environ['NOTIFY_SOCKET']);"
SERVE = READY + "s.send(b'READY=1\\nSTATUS=serving'); import time; time.sleep(600)"
ORDERLY = (
    "import signal,sys,os; order = os.environ['SELFWARE_HOME'] + '/order';"
    "signal.signal(15, lambda *_: (open(order, 'a').write(sys.argv[1] + ' '), sys.exit(0)));"
) + SERVE
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN);" + SERVE


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        yield Path(directory)


def program(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-S", "-c", code, name))


def stack_of(home: Path, **codes: str) -> Stack:
    return Stack(home, Settings(), programs=[program(name, code) for name, code in codes.items()], grace_seconds=10)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), 60)

    asyncio.run(limited())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_killed_program_is_back_at_once_and_the_others_are_left_alone(home: Path) -> None:
    async def work() -> None:
        stack = stack_of(home, one=SERVE, two=SERVE)
        await stack.start()
        await stack.wait_ready(20)
        before = {name: stack.pid_of(name) for name in stack.names}
        killed = time.monotonic()
        stack.kill("one", signal.SIGKILL)
        await until(lambda: stack.pid_of("one") not in (None, before["one"]))
        assert time.monotonic() - killed < 1.0
        await stack.wait_ready(20)
        assert stack.pid_of("two") == before["two"]
        assert stack.restarts == {"one": 1, "two": 0}
        assert stack.sentence_of("one") == "serving"
        await stack.stop()
        await stack.stop()
        assert stack.restarts == {"one": 1, "two": 0}

    run(work)


def test_programs_stop_in_reverse_order(home: Path) -> None:
    async def work() -> None:
        stack = stack_of(home, first=ORDERLY, second=ORDERLY, third=ORDERLY)
        await stack.start()
        await stack.wait_ready(20)
        await stack.stop()
        assert (home / "order").read_text() == "third second first "

    run(work)


def test_a_program_that_ignores_the_stop_is_killed_after_the_grace(home: Path) -> None:
    async def work() -> None:
        stack = Stack(home, Settings(), programs=[program("stubborn", STUBBORN)], grace_seconds=0.3)
        await stack.start()
        await stack.wait_ready(20)
        pid = stack.pid_of("stubborn")
        assert pid is not None
        await stack.stop()
        assert not alive(pid)

    run(work)


def test_a_program_that_means_to_end_stays_ended_and_the_rest_goes_on(home: Path) -> None:
    async def work() -> None:
        stack = stack_of(home, fine=SERVE, done=READY + "s.send(b'READY=1')")
        await stack.start()
        await until(lambda: stack.is_ready("fine") and stack.pid_of("done") is None)
        await asyncio.sleep(0.2)
        assert (stack.pid_of("done"), stack.restarts["done"]) == (None, 0)
        assert stack.pid_of("fine") is not None
        await stack.stop()

    run(work)


def test_a_configuration_error_is_reported_with_the_programs_own_words_and_not_tried_again(home: Path) -> None:
    async def work() -> None:
        code = "import sys; sys.stderr.write('unknown key sytem\\n'); sys.exit(78)"
        stack = stack_of(home, fine=SERVE, broken=code)
        await stack.start()
        with pytest.raises(StackFailedError, match="broken ended with status 78: unknown key sytem"):
            await stack.wait_ready(20)
        assert "status 78" in await stack.failed()
        assert stack.restarts["broken"] == 0
        await stack.stop()

    run(work)


def test_a_program_that_keeps_dying_is_waited_for_with_growing_delays(home: Path) -> None:
    async def work() -> None:
        backoff = Backoff(base_seconds=0.05, max_seconds=0.2)
        stack = Stack(home, Settings(), programs=[program("mortal", "import sys; sys.exit(1)")], backoff=backoff)
        began = time.monotonic()
        await stack.start()
        await until(lambda: stack.restarts["mortal"] >= 5)
        assert time.monotonic() - began > 0.05 + 0.1 + 0.2
        with pytest.raises(NotReadyError, match="mortal"):
            await stack.wait_ready(0.1)
        await stack.stop()

    run(work)


def test_backoff_is_zero_then_doubles_then_is_forgotten() -> None:
    backoff = Backoff()
    failures, delays = 0, []
    for lived in (1, 1, 1, 1, 1, 1, 1, 1, 30, 1, 61, 1, 1):
        failures = backoff.failures(failures, lived)
        delays.append(backoff.delay(failures, lived))
    assert delays == [0, 0.25, 0.5, 1, 2, 4, 8, 10, 0, 10, 0, 0, 0.25]


def test_a_second_stack_on_the_same_home_is_refused(home: Path) -> None:
    async def work() -> None:
        stack = stack_of(home, one=SERVE)
        await stack.start()
        with pytest.raises(AlreadyRunningError, match=f"already running as process {os.getpid()}"):
            await stack_of(home, one=SERVE).start()
        await stack.stop()
        again = stack_of(home, one=SERVE)
        await again.start()
        await again.stop()

    run(work)


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from selfware_common.settings import Settings
from selfwarectl.foreground import Stack
from selfwarectl.supervised import Program

async def main() -> None:
    stack = Stack(Path(sys.argv[1]), Settings(), programs=[
        Program(name, (sys.executable, "-S", "-c", sys.argv[2], name)) for name in ("one", "two")])
    await stack.start()
    await stack.wait_ready(20)
    print(stack.pid_of("one"), stack.pid_of("two"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_kill_9_of_the_supervisor_leaves_no_program_behind_and_the_next_one_starts(home: Path) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(home), SERVE]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pids = [int(word) for word in supervisor.stdout.readline().split()]
    assert all(alive(pid) for pid in pids)
    supervisor.kill()
    supervisor.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a program outlived its supervisor"
        time.sleep(0.01)

    async def work() -> None:
        stack = stack_of(home, one=SERVE)
        await stack.start()
        await stack.wait_ready(20)
        await stack.stop()

    run(work)


def test_a_long_log_is_rotated_and_the_program_goes_on_writing(home: Path) -> None:
    async def work() -> None:
        stack = stack_of(home, chatty="import sys; sys.stderr.write('x' * 5_100_000);" + SERVE)
        await stack.start()
        await stack.wait_ready(20)
        log = home / "log/chatty.log"
        await until(lambda: log.stat().st_size < 5_000_000)
        assert (home / "log/chatty.log.1").stat().st_size >= 5_000_000
        await stack.stop()

    run(work)


def test_the_engine_is_ready_when_it_answers_health(home: Path) -> None:
    listen = home / "e.sock"
    code = (
        "import socket, sys; s=socket.socket(1,1); s.bind(sys.argv[1]); s.listen();\n"
        "for answer in ('503 Loading', '200 OK', '200 OK'):\n"
        "    c,_=s.accept(); c.recv(999); c.sendall(b'HTTP/1.1 '+answer.encode()+b'\\r\\n\\r\\n'); c.close()\n"
        "import time; time.sleep(600)"
    )

    async def work() -> None:
        engine = Program("engine", (sys.executable, "-S", "-c", code, str(listen)), health_socket=listen)
        stack = Stack(home, Settings(), programs=[engine])
        await stack.start()
        await stack.wait_ready(20)
        assert stack.is_ready("engine")
        await stack.stop()

    run(work)


def test_the_programs_of_a_stack_are_the_daemons_in_start_order(home: Path) -> None:
    stack = Stack(home, Settings())
    assert stack.names == ["checkpointd", "resourced", "oversightd", "engine", "inferenced", "agent"]
    engine = programs_of(stack.paths, Settings(), ["scripted-engine"])[3]
    assert engine.argv == ("scripted-engine",)
