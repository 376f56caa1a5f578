"""From selfware.toml to what resourced works with: when to read, and at which values pressure begins.

The file names the lines that people care about; the others follow from them here, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

from selfware_common.settings import Settings
from selfware_resourced.pressure import NEVER, Limits

DISK_INTERVAL_SECONDS = 10.0
GPU_ANSWER_SECONDS = 10.0
"""A driver that takes longer is reported as not answering; the first contact may load firmware."""

STALL_SOME = Limits(warning=20.0, critical=60.0, emergency=NEVER, release=5.0)
"""Percent of the last 10 s in which some task waited for memory. A build on a small machine reaches the first."""
STALL_FULL = Limits(warning=10.0, critical=25.0, emergency=50.0, release=5.0)
"""Percent in which every task waited: nothing got done."""


@dataclass(frozen=True)
class Config:
    """Valid values only; made once from the settings."""

    memory_interval_seconds: float
    gpu_interval_seconds: float
    memory: Limits
    disk: Limits
    disk_enough_bytes: int
    """With this much free the disk is never worse than a warning, however full its percentage looks."""
    gpu_memory: Limits
    gpu_celsius: Limits


def from_settings(settings: Settings) -> Config:
    """Derive every line from [resources] and the size of the store."""
    resources = settings.resources
    full = resources.disk.max_usage_percent
    hot = resources.gpu.temperature_threshold
    return Config(
        memory_interval_seconds=resources.memory.monitor_interval_seconds,
        gpu_interval_seconds=resources.gpu.monitor_interval_seconds,
        memory=Limits(
            resources.memory.warning_threshold,
            resources.memory.critical_threshold,
            resources.memory.emergency_threshold,
        ),
        disk=Limits(warning=full - 0.10, critical=full, emergency=full + 0.75 * (1 - full)),
        disk_enough_bytes=2 * settings.checkpoint.max_size_bytes,
        gpu_memory=Limits(warning=NEVER, critical=resources.gpu.memory_utilization_threshold, emergency=NEVER),
        gpu_celsius=Limits(
            warning=hot - 5,
            critical=hot if resources.gpu.throttle_on_overheat else NEVER,
            emergency=hot + 10 if resources.gpu.throttle_on_overheat else NEVER,
            release=3.0,
        ),
    )
