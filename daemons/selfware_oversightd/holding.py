"""Which workspaces stand still now, because they are being saved or put back: nothing begins there meanwhile.

Knows paths only. Whoever holds looks first whether anything runs; whoever begins asks here. Both happen in the event
loop without a pause in between, so no action slips through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from selfware_tool.sandbox import is_within


class Holds:
    """The workspaces that stand still. Tells once they no longer do."""

    def __init__(self) -> None:
        self.released: Callable[[], None] = lambda: None
        self._held: list[tuple[str, ...]] = []

    def covers(self, workspace: str) -> bool:
        """Whether nothing may begin there."""
        return any(overlap(workspace, held) for held in self._held)

    @contextmanager
    def on(self, workspaces: Iterable[str]) -> Iterator[None]:
        """Hold them for as long as the block lasts."""
        held = tuple(workspaces)
        self._held.append(held)
        try:
            yield
        finally:
            self._held.remove(held)
            self.released()


def overlap(workspace: str, others: Iterable[str]) -> bool:
    """Whether it is one of the others, lies in one, or contains one."""
    return any(is_within(workspace, other) or is_within(other, workspace) for other in others)
