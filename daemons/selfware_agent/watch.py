"""Follows what the neighbours publish: the operator's pause from oversightd, pressure from resourced.

They open or close the gate in front of the next step, and tell the checkpoint schedule how the machine is. A neighbour
that is away changes nothing: the last known fact stands.
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from selfware_agent.worker import Gate
from selfware_common.rpc import oversight_pb2, oversight_pb2_grpc, resource_pb2, resource_pb2_grpc

AGAIN_SECONDS = 0.5


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
        self.memory_short = False
        self.disk_full = ""

    @property
    def paused(self) -> bool:
        """By the operator."""
        return bool(self._paused)

    async def control(self) -> None:
        """For ever: the operator's pause."""
        while True:
            try:
                async for fact in self._oversight.WatchControl(oversight_pb2.WatchControlRequest()):
                    self._paused = f"paused by the operator: {fact.reason or 'no reason given'}" if fact.paused else ""
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
