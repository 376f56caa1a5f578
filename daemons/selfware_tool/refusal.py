"""Says why an action will not be run, in words, without importing anything.

The runner and the daemon share these two; ``errors.py`` turns them into what a user of the daemon sees.
"""

from __future__ import annotations


class RefusalError(Exception):
    """The action as written cannot be run; the message is one sentence saying why."""


class UnsupportedKindError(RefusalError):
    """The kind of action exists, but this version does not execute it."""
