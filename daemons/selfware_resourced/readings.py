"""One picture of the machine: the readings, the level of each part, and the sentence that says it.

Pure: it gets readings and the previous picture and gives the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from selfware_common.rpc import resource_pb2
from selfware_resourced.config import STALL_FULL, STALL_SOME, Config
from selfware_resourced.disk import Disk
from selfware_resourced.gpu import Gpu, Gpus
from selfware_resourced.memory import Cpu, Memory
from selfware_resourced.pressure import Level, disk_level, next_level, steady_percent


@dataclass(frozen=True)
class Levels:
    """What each part was last judged to be; hysteresis needs the previous one."""

    memory: Level = Level.NONE
    stall_some: Level = Level.NONE
    stall_full: Level = Level.NONE
    disk: Level = Level.NONE
    inodes: Level = Level.NONE
    gpu_memory: dict[int, Level] = field(default_factory=dict)
    gpu_heat: dict[int, Level] = field(default_factory=dict)

    @property
    def memory_part(self) -> Level:
        """Use and stalls together."""
        return max(self.memory, self.stall_some, self.stall_full)

    @property
    def disk_part(self) -> Level:
        """Bytes and inodes together."""
        return max(self.disk, self.inodes)

    def gpu_part(self, index: int) -> Level:
        """Memory and heat of one GPU together."""
        return max(self.gpu_memory.get(index, Level.NONE), self.gpu_heat.get(index, Level.NONE))

    @property
    def highest(self) -> Level:
        """The pressure of the machine."""
        return max([self.memory_part, self.disk_part, *self.gpu_memory.values(), *self.gpu_heat.values()])


@dataclass(frozen=True)
class Picture:
    """Everything known at one moment."""

    memory: Memory
    cpu: Cpu
    disk: Disk
    gpus: Gpus
    levels: Levels
    shown: tuple[int, int]
    """Percentages of memory and disk in the sentence."""

    @property
    def sentence(self) -> str:
        """ "memory 41% used, disk 22% used, no GPU: no pressure"."""
        parts = [f"memory {self.shown[0]}% used", f"disk {self.shown[1]}% used", *_gpu_words(self)]
        causes = _causes(self)
        level = self.levels.highest
        verdict = f"{level.name.lower()} pressure from {', '.join(causes)}" if causes else "no pressure"
        return f"{', '.join(parts)}: {verdict}"

    def message(self, time_unix_nanos: int) -> resource_pb2.Reading:
        """As it goes over the wire."""
        return resource_pb2.Reading(
            time_unix_nanos=time_unix_nanos,
            pressure=_wire(self.levels.highest),
            sentence=self.sentence,
            memory=_memory_message(self),
            disk=_disk_message(self),
            gpus=[_gpu_message(gpu, self.levels.gpu_part(gpu.index)) for gpu in self.gpus.gpus],
            cpu=resource_pb2.Cpu(
                cores=self.cpu.cores, load_ratio=self.cpu.load_ratio, stall_some_avg10=self.cpu.stall_some
            ),
            gpu_note=self.gpus.note,
        )


def judge(before: Levels, memory: Memory, disk: Disk, gpus: Gpus, config: Config) -> Levels:
    """Every level after these readings."""
    return Levels(
        memory=next_level(before.memory, memory.used_ratio, config.memory),
        stall_some=next_level(before.stall_some, memory.stall_some, STALL_SOME),
        stall_full=next_level(before.stall_full, memory.stall_full, STALL_FULL),
        disk=disk_level(before.disk, disk.used_ratio, disk.free_bytes, config.disk, config.disk_enough_bytes),
        inodes=next_level(before.inodes, disk.inodes_used_ratio, config.disk),
        gpu_memory={
            gpu.index: next_level(before.gpu_memory.get(gpu.index, Level.NONE), gpu.memory_ratio, config.gpu_memory)
            for gpu in gpus.gpus
        },
        gpu_heat={
            gpu.index: next_level(
                before.gpu_heat.get(gpu.index, Level.NONE), gpu.temperature_celsius, config.gpu_celsius
            )
            for gpu in gpus.gpus
        },
    )


def picture(before: Picture | None, memory: Memory, cpu: Cpu, disk: Disk, gpus: Gpus, config: Config) -> Picture:
    """The next picture from the previous one and new readings."""
    shown = before.shown if before else (-1, -1)
    return Picture(
        memory=memory,
        cpu=cpu,
        disk=disk,
        gpus=gpus,
        levels=judge(before.levels if before else Levels(), memory, disk, gpus, config),
        shown=(steady_percent(shown[0], memory.used_ratio), steady_percent(shown[1], disk.used_ratio)),
    )


def _gpu_words(now: Picture) -> list[str]:
    """Percentages of a busy GPU change every second and are left to `selfwarectl resources`."""
    if not now.gpus.gpus:
        return [now.gpus.note]
    count = len(now.gpus.gpus)
    return [now.gpus.gpus[0].name if count == 1 else f"{count} GPUs"]


def _causes(now: Picture) -> list[str]:
    levels = now.levels
    causes = []
    if levels.memory > Level.NONE:
        causes.append("memory")
    if max(levels.stall_some, levels.stall_full) > Level.NONE:
        causes.append("tasks that wait for memory")
    if levels.disk > Level.NONE:
        causes.append("disk")
    if levels.inodes > Level.NONE:
        causes.append("inodes")
    causes += [f"memory of GPU {index}" for index, level in levels.gpu_memory.items() if level > Level.NONE]
    causes += [f"heat of GPU {index}" for index, level in levels.gpu_heat.items() if level > Level.NONE]
    return causes


def _wire(level: Level) -> resource_pb2.Pressure.ValueType:
    return resource_pb2.Pressure.ValueType(int(level))


def _memory_message(now: Picture) -> resource_pb2.Memory:
    return resource_pb2.Memory(
        total_bytes=now.memory.total_bytes,
        available_bytes=now.memory.available_bytes,
        used_ratio=now.memory.used_ratio,
        stall_some_avg10=now.memory.stall_some,
        stall_full_avg10=now.memory.stall_full,
        pressure=_wire(now.levels.memory_part),
    )


def _disk_message(now: Picture) -> resource_pb2.Disk:
    return resource_pb2.Disk(
        path=str(now.disk.path),
        total_bytes=now.disk.total_bytes,
        free_bytes=now.disk.free_bytes,
        used_ratio=now.disk.used_ratio,
        inodes_used_ratio=now.disk.inodes_used_ratio,
        pressure=_wire(now.levels.disk_part),
    )


def _gpu_message(gpu: Gpu, level: Level) -> resource_pb2.Gpu:
    return resource_pb2.Gpu(
        index=gpu.index,
        name=gpu.name,
        memory_total_bytes=gpu.memory_total_bytes,
        memory_used_bytes=gpu.memory_used_bytes,
        utilization_ratio=gpu.utilization_ratio,
        temperature_celsius=gpu.temperature_celsius,
        pressure=_wire(level),
    )
