"""What a capture is allowed and what it reports: limits in, counts and names out. Plain values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfware_common.trees.errors import printable
from selfware_common.trees.index import TreeIndex

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a capture stops with TreeTooLargeError; a sparse file counts with the length that it claims."""

    content_bytes: int = 1 << 30
    entries: int = 1_000_000


@dataclass(slots=True)
class Named:
    """How many paths something happened to, and the first few of them."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, path: bytes, reason: str = "") -> None:
        """One more; shown as "path" or "path: reason"."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{printable(path)}: {reason}" if reason else printable(path))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a capture wrote. Sizes are bytes of the stream, whether written or referred to."""

    directories: int
    files: int
    links: int
    pipes: int
    content_bytes: int
    stream_bytes: int
    reused_files: int
    reused_bytes: int
    left_out: Named
    """Sockets and devices: not in the stream at all."""
    unread: Named
    """What could not be read, with the reason: in the stream as unread."""
    changing: Named
    """Files that changed each time they were read: in the stream as read last."""
    stream_hash: bytes
    """The hash in the trailer: it names the stream."""
    tree_hash: bytes
    """What tree_digest would give: times do not count."""
    index: TreeIndex
    """For write_tree_again."""
