"""Tells the journal what an action printed and how it ended, as entries of its own unit.

The encoding is selfware_common.log's; that module is not imported, because logging and dataclasses are too dear for a
runner, and never blocks: what does not fit in the socket is dropped.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
MOST_LINES = 200
LONGEST_LINE_BYTES = 2000


class Journal:
    """Owns one datagram socket; every entry carries the same fields."""

    def __init__(self, identifier: str, labels: Mapping[str, object]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        fields = {"SYSLOG_IDENTIFIER": identifier}
        fields.update({f"SELFWARE_{name.upper()}": str(value) for name, value in labels.items() if value})
        self._head = b"".join(f"{name}={_one_line(value)}\n".encode() for name, value in fields.items())

    def say(self, sentence: str, priority: int = 6) -> None:
        """One entry."""
        entry = self._head + f"PRIORITY={priority}\nMESSAGE={_one_line(sentence)}\n".encode("utf-8", "replace")
        try:
            self._socket.sendto(entry, SOCKET)
        except OSError:
            return

    def lines(self, output: bytes) -> None:
        """An entry a line, terminal escapes made visible; the middle of a long output is left out."""
        lines = output.decode("utf-8", "replace").splitlines()
        left_out = len(lines) - MOST_LINES
        if left_out > 0:
            half = MOST_LINES // 2
            lines = [*lines[:half], f"[... {left_out} lines left out ...]", *lines[-half:]]
        for line in lines:
            self.say(line[:LONGEST_LINE_BYTES])


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
