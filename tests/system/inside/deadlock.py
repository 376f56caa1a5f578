"""Runs a daemon whose main thread deadlocks for ever on SIGUSR2: `deadlock.py NAME`. Only a watchdog can notice."""

import importlib
import signal
import sys
import threading
from types import FrameType

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

LOCK = threading.Lock()


def wait_for_oneself(_number: int, _frame: FrameType | None) -> None:
    """Takes the same lock twice."""
    LOCK.acquire()
    LOCK.acquire()


if __name__ == "__main__":
    name = sys.argv.pop()
    signal.signal(signal.SIGUSR2, wait_for_oneself)
    sys.exit(importlib.import_module(f"selfware_{name}.__main__").main())
