"""Asks checkpointd something small again and again, and knows how long the slowest answer took.

    python -m tests.bench.prober SOCKET

A line on standard input begins it; the next one ends it and is answered by one on standard output: the seconds of the
slowest answer, and how many there were. What is measured is all that a caller meets: a blocked event loop, threads that
keep the interpreter to themselves, a busy processor, the wire. A process of its own, so that nothing of the benchmark
is in it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc

PAUSE_SECONDS = 0.001


class Prober:
    """The process, from the benchmark's side: `with prober: ...` asks meanwhile."""

    def __init__(self, socket: Path) -> None:
        argv = [sys.executable, "-m", "tests.bench.prober", str(socket)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.found: list[tuple[float, int]] = []  # of each time: seconds of the slowest answer, how many

    def __enter__(self) -> None:
        self._say_a_line()

    def __exit__(self, *_: object) -> None:
        self._say_a_line()
        assert self._process.stdout is not None
        seconds, count = self._process.stdout.readline().split()
        self.found.append((float(seconds), int(count)))

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)

    def _say_a_line(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


def main(socket: str) -> None:
    stub = checkpoint_pb2_grpc.CheckpointStub(clients.sync_channel(Path(socket)))
    took: list[float] = []
    going = threading.Event()

    def ask() -> float:
        begin = time.perf_counter()
        stub.List(pb.ListRequest(session_id="nobody"), timeout=60, wait_for_ready=True)
        return time.perf_counter() - begin

    def keep_asking() -> None:
        while going.wait():
            took.append(ask())
            time.sleep(PAUSE_SECONDS)

    ask()
    threading.Thread(target=keep_asking, daemon=True).start()
    for _ in sys.stdin:
        if not going.is_set():
            took.clear()
            going.set()
            continue
        going.clear()
        known = [*took, ask()]  # so that one which is still waited for counts, too
        sys.stdout.write(f"{max(known)} {len(known)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
