"""GPUs through NVML, asked by a thread that nobody waits for: a driver can hang for ever, and this daemon must not.

No library, no driver and no GPU are normal and become one note. A reader thread that does not come back is left where
it is (it is a daemon thread, so it cannot hold up a stop) and its last readings are no longer shown. pynvml is imported
only where the library exists: elsewhere it costs no memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
UNKNOWN = -1.0


@dataclass(frozen=True)
class Gpu:
    """One reading; -1 stands for what this GPU does not tell."""

    index: int
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization_ratio: float
    temperature_celsius: float

    @property
    def memory_ratio(self) -> float:
        """Used share of its memory."""
        return self.memory_used_bytes / self.memory_total_bytes if self.memory_total_bytes else 0.0


@dataclass(frozen=True)
class Gpus:
    """All of them, or a sentence saying why there are none."""

    gpus: tuple[Gpu, ...]
    note: str


class GpuReader:
    """Owns the thread. `latest` never blocks."""

    def __init__(self, interval_seconds: float, answer_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._answer_seconds = answer_seconds
        self._latest = Gpus((), "not read yet")
        self._asked: float | None = time.monotonic()
        self._stop = threading.Event()
        threading.Thread(target=self._work, name="nvml", daemon=True).start()

    def latest(self) -> Gpus:
        """The newest answer, or that there is none in time."""
        asked = self._asked
        if asked is not None and (waited := time.monotonic() - asked) > self._answer_seconds:
            return Gpus((), f"GPU driver does not answer{_about(waited)}")
        return self._latest

    def close(self) -> None:
        """The thread ends after its present question, or never if the driver hangs."""
        self._stop.set()

    def _work(self) -> None:
        try:
            ctypes.CDLL(LIBRARY)
        except OSError:
            self._latest, self._asked = Gpus((), "no GPU"), None
            return
        import pynvml

        ready = False
        while not self._stop.is_set():
            self._asked = time.monotonic()
            try:
                if not ready:
                    pynvml.nvmlInit()
                    ready = True
                self._latest = _read(pynvml)
            except pynvml.NVMLError as error:
                self._latest = Gpus((), f"no GPU reading: {error}")
                if ready:
                    _shut_down(pynvml)
                    ready = False
            self._asked = None
            self._stop.wait(self._interval_seconds)


def _read(nvml: ModuleType) -> Gpus:
    count = nvml.nvmlDeviceGetCount()
    gpus = tuple(_read_one(nvml, index) for index in range(count))
    return Gpus(gpus, "" if gpus else "the GPU driver is loaded but has no GPU")


def _read_one(nvml: ModuleType, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _memory(nvml, handle)
    rates = _if_told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    celsius = _if_told(nvml, lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)))
    return Gpu(index, str(nvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.used), rates, celsius)


def _memory(nvml: ModuleType, handle: Any) -> Any:
    """Without what the driver keeps for itself (0.6 GB on an H200): nobody uses that, and nvidia-smi does not count it.
    Drivers before 510 know only the other way."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError_FunctionNotFound:
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _if_told(nvml: ModuleType, ask: Callable[[], Any]) -> float:
    """A lost GPU is an error, a sensor that this model lacks is not."""
    try:
        return float(ask())
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
        return UNKNOWN


def _shut_down(nvml: ModuleType) -> None:
    """Begin anew next time: after a driver reload every handle is void, and then even this call may fail."""
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlShutdown()


def _about(seconds: float) -> str:
    """Coarse, so that a sentence holding it does not change every cycle."""
    return f" (for {int(seconds // 60)} min)" if seconds >= 60 else ""
