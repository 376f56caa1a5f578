"""Benchmark: from exec to READY=1, per daemon, interleaved; the peer is a bare grpc.aio server."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.common import line, median, say
from tests.rig import SETTINGS, temporary_home

DAEMONS = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")
ROUNDS = 7
BARE = """
import asyncio, os, socket, grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
async def main():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    reflection.enable_server_reflection(["x"], server)
    server.add_insecure_port("unix:" + os.environ["SELFWARE_HOME"] + "/bare.sock")
    await server.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s: s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    await asyncio.sleep(60)
asyncio.run(main())
"""


def ready_seconds(home: Path, argv: list[str]) -> float:
    """Start one process, wait for READY=1, end it."""
    address = home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(address))
        supervisor.settimeout(60)
        environ = {**os.environ, "SELFWARE_HOME": str(home), "NOTIFY_SOCKET": str(address)}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        begin = time.perf_counter()
        process = subprocess.Popen(argv, env=environ, stderr=subprocess.DEVNULL)
        while not supervisor.recv(4096).startswith(b"READY=1"):
            pass
        seconds = time.perf_counter() - begin
    address.unlink()
    process.terminate()
    process.wait(30)
    return seconds


async def main() -> None:
    async with temporary_home() as home:
        (home / "etc").mkdir()
        (home / "etc/selfware.toml").write_text(SETTINGS)
        found: dict[str, list[float]] = {name: [] for name in (*DAEMONS, "bare")}
        for number in range(ROUNDS + 1):
            for name in found:
                argv = [sys.executable, "-c", BARE] if name == "bare" else [sys.executable, "-m", f"selfware_{name}"]
                seconds = ready_seconds(home, argv)
                if number:  # the first round compiles bytecode and fills caches
                    found[name].append(seconds)
            say(f"round {number}: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in found.items() if values))
        peer = median(found["bare"])
        for name in DAEMONS:
            line(
                "startup",
                f"ready_seconds_{name}",
                "s",
                median(found[name]),
                peer="bare grpc.aio server",
                peer_value=peer,
                n=ROUNDS,
            )


if __name__ == "__main__":
    asyncio.run(main())
