"""Asks checkpointd something small again and again, and knows how long the slowest answer took.

    python -m tests.bench.prober SOCKET

A line on standard input is answered by one on standard output: the seconds of the slowest answer since the last line,
and how many there were. What is measured is all that a caller meets: a blocked event loop, threads that keep the
interpreter to themselves, a busy processor, the wire. A process of its own, so that nothing of the benchmark is in it.
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
    """The process, from the benchmark's side."""

    def __init__(self, socket: Path) -> None:
        argv = [sys.executable, "-m", "tests.bench.prober", str(socket)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.slowest()

    def slowest(self) -> tuple[float, int]:
        """Seconds, and of how many answers, since this was asked last."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, count = self._process.stdout.readline().split()
        return float(seconds), int(count)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def main(socket: str) -> None:
    stub = checkpoint_pb2_grpc.CheckpointStub(clients.sync_channel(Path(socket)))
    took: list[float] = [0.0]

    def ask() -> None:
        while True:
            begin = time.perf_counter()
            stub.List(pb.ListRequest(session_id="nobody"), timeout=60, wait_for_ready=True)
            took.append(time.perf_counter() - begin)
            time.sleep(PAUSE_SECONDS)

    threading.Thread(target=ask, daemon=True).start()
    for _ in sys.stdin:
        known = took[:]
        del took[: len(known)]
        sys.stdout.write(f"{max(known, default=0.0)} {len(known)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
