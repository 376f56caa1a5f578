"""Follows what the neighbours publish: the operator's pause from oversightd, pressure from resourced.

They open or close the gate in front of the next step, and tell the checkpoint schedule how the machine is. A neighbour
that is away changes nothing: the last known fact stands.
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from selfware_agent.errors import OversightAwayError
from selfware_agent.worker import Gate
from selfware_common.rpc import oversight_pb2, oversight_pb2_grpc, resource_pb2, resource_pb2_grpc

AGAIN_SECONDS = 0.5
ASK_SECONDS = 2.0
"""How long oversightd is asked, which may be restarting; then what it said last counts."""


class Watch:
    """Owns the gate's two reasons to be closed.

    `memory_short` and `disk_full` (why there is hardly room, or '') hold from critical pressure on, as resourced judges
    it by [resources.memory] and [resources.disk]."""

    def __init__(self, gate: Gate, oversight: grpc.aio.Channel, resource: grpc.aio.Channel) -> None:
        self._gate = gate
        self._oversight = oversight_pb2_grpc.OversightStub(oversight)
        self._resource = resource_pb2_grpc.ResourceStub(resource)
        self._paused = ""
        self._pressed = ""
        self._restoring: str | None = None  # not heard yet
        self.memory_short = False
        self.disk_full = ""

    @property
    def paused(self) -> bool:
        """By the operator, or by a restore."""
        return bool(self._paused)

    async def restoring(self) -> str:
        """The checkpoint of the restore that is under way, or ''. oversightd is asked: what it publishes comes a little
        later. While it is away none begins. Raises OversightAwayError when it was never heard."""
        call = self._oversight.WatchControl(oversight_pb2.WatchControlRequest(), timeout=ASK_SECONDS)
        try:
            async for fact in call:
                return fact.restoring
        except grpc.aio.AioRpcError:
            pass
        finally:
            call.cancel()
        if self._restoring is None:
            raise OversightAwayError(what="whether a restore is under way")
        return self._restoring

    async def control(self) -> None:
        """For ever: the operator's pause."""
        while True:
            try:
                async for fact in self._oversight.WatchControl(oversight_pb2.WatchControlRequest()):
                    self._restoring = fact.restoring
                    who = "paused" if fact.restoring else "paused by the operator"
                    self._paused = f"{who}: {fact.reason or 'no reason given'}" if fact.paused else ""
                    self._apply()
            except grpc.aio.AioRpcError:
                pass  # it is restarting: wait for it
            await asyncio.sleep(AGAIN_SECONDS)

    async def pressure(self) -> None:
        """For ever: no new step while the machine is in an emergency."""
        while True:
            try:
                async for reading in self._resource.Watch(resource_pb2.WatchRequest()):
                    emergency = reading.pressure >= resource_pb2.PRESSURE_EMERGENCY
                    self._pressed = f"paused: {reading.sentence}" if emergency else ""
                    self.memory_short = reading.memory.pressure >= resource_pb2.PRESSURE_CRITICAL
                    self.disk_full = _disk_full(reading.disk)
                    self._apply()
            except grpc.aio.AioRpcError:
                pass  # it is restarting: wait for it
            await asyncio.sleep(AGAIN_SECONDS)

    def _apply(self) -> None:
        self._gate.reason = self._paused or self._pressed
        if self._gate.reason:
            self._gate.open.clear()
        else:
            self._gate.open.set()


def _disk_full(disk: resource_pb2.Disk) -> str:
    if disk.pressure < resource_pb2.PRESSURE_CRITICAL:
        return ""
    what = "inodes" if disk.inodes_used_ratio > disk.used_ratio else "disk"
    return f"{what} {max(disk.used_ratio, disk.inodes_used_ratio):.0%} used"
