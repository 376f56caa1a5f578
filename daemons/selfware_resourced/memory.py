"""Memory and processor as the kernel sees them: use, load, and pressure stall information where it exists.

PSI (/proc/pressure) is absent on some kernels and hidden in some sandboxes; that is normal and read as -1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

PRESSURE = Path("/proc/pressure")
UNKNOWN = -1.0


@dataclass(frozen=True)
class Memory:
    """One reading."""

    total_bytes: int
    available_bytes: int
    stall_some: float
    stall_full: float

    @property
    def used_ratio(self) -> float:
        """What cannot be had without swapping or killing, as a share."""
        return 1 - self.available_bytes / self.total_bytes


@dataclass(frozen=True)
class Cpu:
    """One reading; `load_ratio` is the one-minute load per core."""

    cores: int
    load_ratio: float
    stall_some: float


def read_memory(pressure: Path = PRESSURE) -> Memory:
    """Ask the kernel now."""
    now = psutil.virtual_memory()
    some, full = read_stalls(pressure / "memory")
    return Memory(now.total, now.available, some, full)


def read_cpu(pressure: Path = PRESSURE) -> Cpu:
    """Ask the kernel now."""
    cores = len(os.sched_getaffinity(0))
    return Cpu(cores, os.getloadavg()[0] / cores, read_stalls(pressure / "cpu")[0])


def read_stalls(path: Path) -> tuple[float, float]:
    """`some` and `full` of the last 10 s in percent; -1 where the kernel does not tell."""
    try:
        text = path.read_text()
    except OSError:  # not compiled in, switched off (EOPNOTSUPP), or hidden by ProcSubset=pid
        return UNKNOWN, UNKNOWN
    values = {"some": UNKNOWN, "full": UNKNOWN}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        for word in rest.split():
            key, _, number = word.partition("=")
            if key == "avg10" and kind in values:
                values[kind] = float(number)
    return values["some"], values["full"]
