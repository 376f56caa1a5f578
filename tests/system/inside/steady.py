"""Runs inside a booted image, as root: steady calls to every daemon, as the other daemons make them, until SIGTERM.

Each daemon is called over a channel with the retry policy that all of ours have, ten times a second. Prints a line of
JSON per daemon at the end: how many calls, how many failed, and the longest.
"""

import asyncio
import json
import signal
import sys
import time

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

import grpc
import grpc.aio

from selfware_common import clients, paths
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc

SOCKETS = {"oversightd": "agent.sock"}
DAEMONS = ("checkpointd", "resourced", "oversightd", "inferenced", "agent")


async def steady(name: str, stop: asyncio.Event) -> None:
    """Calls one daemon."""
    calls, longest, errors = 0, 0.0, []
    async with clients.channel(paths.system().socket_of(name, SOCKETS.get(name, "api.sock"))) as channel:
        stub = daemon_pb2_grpc.DaemonStub(channel)
        while not stop.is_set():
            began = time.monotonic()
            try:
                await stub.Status(daemon_pb2.StatusRequest(), timeout=30)
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")
            calls, longest = calls + 1, max(longest, time.monotonic() - began)
            await asyncio.sleep(0.05)
    print(json.dumps({"daemon": name, "calls": calls, "failed": len(errors), "longest": longest, "errors": errors[:3]}))


async def main() -> None:
    """All at once."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.gather(*(steady(name, stop) for name in DAEMONS))


if __name__ == "__main__":
    asyncio.run(main())
