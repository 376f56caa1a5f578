"""How long a start waits after failures, and how that widens the window of the restart limit. Pure: milliseconds in
and out.

packaging/selfware-backoff, which does the waiting, computes the same delays in a shell; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

FORGET_AT_LEAST_MS = 600_000
FORGET_TIMES_LONGEST = 10


@dataclass(frozen=True)
class Delays:
    """[supervision.backoff_strategy] in milliseconds."""

    type: str
    base_ms: int
    max_ms: int

    def after(self, failures: int) -> int:
        """Before the start that follows this many failures: nothing, base, then growing to max."""
        if failures < 2:
            return 0
        if self.type == "Linear":
            return min(self.base_ms * (failures - 1), self.max_ms)
        if self.type == "Exponential":
            doublings = min(failures - 2, self.max_ms.bit_length())  # more change nothing, and a big number costs time
            return min(self.base_ms << doublings, self.max_ms)
        return min(self.base_ms, self.max_ms)

    @property
    def longest_ms(self) -> int:
        """The delay that a unit which keeps failing ends up with."""
        if self.type == "Fixed" or not self.base_ms:
            return min(self.base_ms, self.max_ms)
        return self.max_ms

    @property
    def forget_ms(self) -> int:
        """So long without a failure, and the next one is the first again."""
        return max(FORGET_TIMES_LONGEST * self.longest_ms, FORGET_AT_LEAST_MS)

    def sum_ms(self, failures: int) -> int:
        """What this many restarts in a row wait in all."""
        return sum(self.after(number) for number in range(1, failures + 1))
