"""How the parts of a daemon are, and what is done about a part that is sick.

A daemon lists its checks; its own loop runs those that are due, so a wedged loop is the watchdog's to notice and a
wedged part is ours. A component is degraded from its first failure, and unhealthy once `failure_threshold` in a row
have failed or taken too long; then, and each time so many more have failed, its remedy is tried. One success makes it
healthy. The daemon is unhealthy when a critical component is, degraded when anything else is not well.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from selfware_common import catalog
from selfware_common.settings import HealthCheck

Probe = Callable[[], Awaitable[str]]
"""Returns "" when all is well, else what is wrong, as a sentence without a full stop."""
Remedy = Callable[[], Awaitable[str]]
"""Does something about it; returns what, as a sentence."""


class State(StrEnum):
    """Of a component, and of a daemon."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Severity(StrEnum):
    """What an unhealthy component means for its daemon."""

    CRITICAL = "critical"  # it cannot do its work
    WARNING = "warning"  # it can, less well


@dataclass(frozen=True)
class Check:
    """One component and how to look at it; the numbers left out are those of [supervision.health_check]."""

    component: str
    probe: Probe
    severity: Severity = Severity.CRITICAL
    remedy: Remedy | None = None
    interval_seconds: float | None = None
    timeout_seconds: float | None = None
    failure_threshold: int | None = None
    event: str = catalog.COMPONENT_UNHEALTHY
    """Message id of the journal line when it turns unhealthy."""
    fields: dict[str, str] = field(default_factory=dict)
    """What that message names beside the component."""


@dataclass(frozen=True)
class Component:
    """What is known of one."""

    name: str
    severity: Severity = Severity.CRITICAL
    state: State = State.HEALTHY
    reason: str = ""
    failures: int = 0
    """In a row."""
    since_unix_nanos: int = 0
    """When it came to be in this state."""


@dataclass(frozen=True)
class Finding:
    """Something worth a line in the journal: a state that changed, or a remedy that was tried."""

    check: Check
    component: Component
    sentence: str


def judged(before: Component, reason: str, threshold: int, now_unix_nanos: int) -> Component:
    """The component after one more look. Pure."""
    failures = before.failures + 1 if reason else 0
    state = State.HEALTHY if not failures else State.UNHEALTHY if failures >= threshold else State.DEGRADED
    since = before.since_unix_nanos if state is before.state else now_unix_nanos
    return replace(before, state=state, reason=reason, failures=failures, since_unix_nanos=since)


def overall(components: Iterable[Component]) -> State:
    """Of the whole daemon. Pure."""
    sick = [one for one in components if one.state is not State.HEALTHY]
    if any(one.state is State.UNHEALTHY and one.severity is Severity.CRITICAL for one in sick):
        return State.UNHEALTHY
    return State.DEGRADED if sick else State.HEALTHY


def room(directory: Path, least_bytes: int, least_files: int) -> Check:
    """The component "disk": whether there is room for what must be written there."""

    async def probe() -> str:
        disk = os.statvfs(directory)
        if (left := disk.f_bavail * disk.f_frsize) < least_bytes:
            return f"only {left // 2**20} MiB are free for {directory}, {least_bytes // 2**20} MiB are needed"
        if disk.f_files and disk.f_favail < least_files:
            return f"only {disk.f_favail} more files fit on the disk of {directory}"
        return ""

    return Check("disk", probe, event=catalog.DISK_FULL, fields={"path": str(directory)})


class Health:
    """Owns the components of one daemon and when each is looked at next."""

    def __init__(self, checks: Sequence[Check], defaults: HealthCheck) -> None:
        now = time.time_ns()
        self.defaults = defaults
        self._checks = tuple(checks)
        self._due = dict.fromkeys((check.component for check in checks), 0.0)
        self.components = {
            check.component: Component(check.component, check.severity, since_unix_nanos=now) for check in checks
        }

    @property
    def state(self) -> State:
        """Of the whole daemon."""
        return overall(self.components.values())

    def seconds_until_due(self) -> float:
        """Until the next look at any of them; infinite without checks."""
        return max(0.0, min(self._due.values(), default=float("inf")) - time.monotonic())

    async def look(self) -> list[Finding]:
        """Run what is due, all at once, and try the remedies that are called for; what changed, in words."""
        due = [check for check in self._checks if self._due[check.component] <= time.monotonic()]
        reasons = await asyncio.gather(*(self._reason(check) for check in due))
        findings = []
        for check, reason in zip(due, reasons, strict=True):
            self._due[check.component] = time.monotonic() + (check.interval_seconds or self.defaults.interval_seconds)
            findings += await self._take(check, reason)
        return findings

    async def _reason(self, check: Check) -> str:
        seconds = check.timeout_seconds or self.defaults.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await check.probe()
        except TimeoutError:
            return f"it did not answer within {seconds:g} s"

    async def _take(self, check: Check, reason: str) -> list[Finding]:
        threshold = check.failure_threshold or self.defaults.failure_threshold
        before = self.components[check.component]
        now = self.components[check.component] = judged(before, reason, threshold, time.time_ns())
        findings = []
        if now.state is not before.state:
            why = f": {reason}" if reason else " again"
            findings.append(Finding(check, now, f"{check.component} is {now.state}{why}"))
        if check.remedy is not None and now.failures and now.failures % threshold == 0:
            findings.append(Finding(check, now, await check.remedy()))
        return findings
