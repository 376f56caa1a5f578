"""`stub_vllm.py serve MODEL --uds SOCKET ...`: stands in for vLLM in the tests of its launcher.

Like vLLM it has a process below it that ignores SIGTERM and outlives it, and ends with status 0 when told to die.
It holds shared memory, which only Python's resource tracker gives back after a kill. What it was given and which
signal it got is written beside the socket: argv, environ, pids, signals, memory. With --deaf it
never answers /health, as while loading; with --stuck /metrics tells of a request that never comes any further.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

SOCKET = Path(sys.argv[sys.argv.index("--uds") + 1])
WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def note(name: str, value: object) -> None:
    path = SOCKET.with_name(f"{name}.new")
    path.write_text(json.dumps(value))
    path.rename(SOCKET.with_name(name))


def on_term(number: int, _frame: object) -> None:
    note("signals", [number])
    SOCKET.unlink(missing_ok=True)
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, on_term)
    worker = subprocess.Popen([sys.executable, "-S", "-c", WORKER])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(SOCKET))  # fails on a stale socket, as vLLM does
    memory = shared_memory.SharedMemory(create=True, size=4096)
    note("memory", memory.name)
    note("argv", sys.argv[1:])
    note("environ", dict(os.environ))
    note("pids", [os.getpid(), worker.pid])
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    listener.listen()
    while True:
        connection, _ = listener.accept()
        request = connection.recv(4096)
        stuck = request.startswith(b"GET /metrics") and "--stuck" in sys.argv
        body = b"vllm:num_requests_running{} 1.0\nvllm:generation_tokens_total{} 7.0\n" if stuck else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        connection.close()
        if request.startswith(b"GET /die"):
            os._exit(int(request.split()[1].rsplit(b"/", 1)[1]))


if __name__ == "__main__":
    main()
