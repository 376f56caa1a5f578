"""Says in words how a program ended. A status of 128+n means signal n: the shell's convention, and bubblewrap's."""

from __future__ import annotations

import signal

from selfware_common.record import NamedTuple


class Ending(NamedTuple):
    """How the action's first process ended, and whether we ended it."""

    status: int
    timed_out: bool = False
    cancelled: bool = False
    no_room: bool = False

    @property
    def signal_number(self) -> int:
        """The signal that ended it; 0 when none did."""
        number = self.status - 128
        return number if number in _NUMBERS else 0

    def sentence(self, limit_seconds: float) -> str:
        """For example "exited with status 1"; begins with a small letter, has no full stop."""
        how = self._how()
        if self.timed_out:
            return f"{how} after the time limit of {limit_seconds:g} s"
        if self.no_room:
            return f"{how} because the disk of its workspace was nearly full"
        if self.cancelled:
            return f"{how} because it was cancelled"
        return how + _REASONS.get(self.signal_number, "") + _STATUS_REASONS.get(self.status, "")

    def _how(self) -> str:
        if self.signal_number:
            return f"killed by {signal.Signals(self.signal_number).name}"
        return f"exited with status {self.status}"


_NUMBERS = frozenset(int(number) for number in signal.Signals)

_REASONS = {
    int(signal.SIGXCPU): ": it used up its processor time",
    int(signal.SIGXFSZ): ": it wrote a file larger than allowed",
}

_STATUS_REASONS = {
    126: " (the program could not be executed)",
    127: " (the program was not found)",
}
