"""gRPC in, readings out: selfware.resource.v1.Resource on api.sock, and the cycle that keeps the picture fresh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from selfware_common import paths, settings
from selfware_common.daemon import Daemon
from selfware_common.health import Check, Severity
from selfware_common.rpc import resource_pb2, resource_pb2_grpc
from selfware_common.rpcserver import Register
from selfware_resourced.config import DISK_INTERVAL_SECONDS, GPU_ANSWER_SECONDS, Config, from_settings
from selfware_resourced.disk import Disk, read_disk
from selfware_resourced.gpu import GpuReader
from selfware_resourced.memory import read_cpu, read_memory
from selfware_resourced.readings import Picture, picture

SHORTEST_INTERVAL_SECONDS = 0.1


class Resourced(Daemon):
    """Reads the machine at the configured intervals and tells whoever watches."""

    name: ClassVar[str] = "resourced"
    idea: ClassVar[str] = "publishes memory, disk, GPU and load readings and the pressure they mean"

    def __init__(self, where: paths.Paths, config: settings.Settings) -> None:
        super().__init__(where, config)
        self.limits: Config = from_settings(config)
        self.changes = 0
        self.changed = asyncio.Condition()
        self.now: Picture | None = None
        self.read_unix_nanos = 0
        self._gpus: GpuReader | None = None
        self._disk: Disk | None = None
        self._disk_due = 0.0
        self._look_due = 0.0

    async def open(self) -> None:
        """The first picture is there before READY=1."""
        self._gpus = GpuReader(self.limits.gpu_interval_seconds, GPU_ANSWER_SECONDS)
        await self._look()

    async def close(self) -> None:
        if self._gpus is not None:
            self._gpus.close()

    async def reloaded(self) -> None:
        self.limits = from_settings(self.settings)
        if self._gpus is not None:
            self._gpus.close()
        self._gpus = GpuReader(self.limits.gpu_interval_seconds, GPU_ANSWER_SECONDS)

    def services(self) -> tuple[list[str], list[Register]]:
        service = ResourceService(self)
        return ["selfware.resource.v1.Resource"], [
            lambda server: resource_pb2_grpc.add_ResourceServicer_to_server(service, server)  # type: ignore[no-untyped-call,unused-ignore]
        ]

    def checks(self) -> list[Check]:
        return [Check("gpu", self._look_at_gpu, Severity.WARNING)]

    async def cycle(self) -> str:
        """One look at the machine, when the next one is due."""
        await self.wait_or_stop(max(0.0, self._look_due - time.monotonic()))
        self._look_due = time.monotonic() + self.limits.memory_interval_seconds
        return (await self._look()).sentence

    def message(self) -> resource_pb2.Reading:
        """The newest picture, as it goes over the wire."""
        assert self.now is not None, "open() looks before anybody can ask"
        return self.now.message(self.read_unix_nanos)

    async def _look_at_gpu(self) -> str:
        """No GPU at all is healthy; one that stopped answering is not."""
        note = self._gpus.latest().note if self._gpus is not None else ""
        return note if note.startswith(("GPU driver", "no GPU reading")) else ""

    async def _look(self) -> Picture:
        assert self._gpus is not None
        if self._disk is None or time.monotonic() >= self._disk_due:
            self._disk = read_disk(self.paths.state)
            self._disk_due = time.monotonic() + DISK_INTERVAL_SECONDS
        before = self.now
        self.now = picture(before, read_memory(), read_cpu(), self._disk, self._gpus.latest(), self.limits)
        self.read_unix_nanos = time.time_ns()
        if before is None or before.levels != self.now.levels:
            async with self.changed:
                self.changes += 1
                self.changed.notify_all()
        return self.now


class ResourceService(resource_pb2_grpc.ResourceServicer):
    """The two calls; both only look at the newest picture."""

    def __init__(self, daemon: Resourced) -> None:
        self._daemon = daemon

    async def Read(self, request: resource_pb2.ReadRequest, context: Any) -> resource_pb2.Reading:
        return self._daemon.message()

    async def Watch(self, request: resource_pb2.WatchRequest, context: Any) -> AsyncIterator[resource_pb2.Reading]:
        while not self._daemon.stopping.is_set():
            seen = self._daemon.changes
            yield self._daemon.message()
            await self._next(seen, request.interval_seconds)

    async def _next(self, seen: int, interval_seconds: float) -> None:
        """Until a level differs from the one that was sent, the interval is over, or the daemon stops."""
        limit = max(SHORTEST_INTERVAL_SECONDS, interval_seconds) if interval_seconds > 0 else None
        stop = asyncio.ensure_future(self._daemon.stopping.wait())
        change = asyncio.ensure_future(self._change(seen))
        try:
            await asyncio.wait({stop, change}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            change.cancel()

    async def _change(self, seen: int) -> None:
        async with self._daemon.changed:
            await self._daemon.changed.wait_for(lambda: self._daemon.changes != seen)
