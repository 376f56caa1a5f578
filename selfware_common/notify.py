"""Talks to systemd's notification socket (sd_notify(3)); silent where there is none.

Ten lines of protocol instead of a dependency: the PyPI clients are unmaintained, and one that blocks would make the
watchdog kill a healthy daemon. The socket is non-blocking; a lost STATUS= is harmless, READY=1 is sent once more by
nobody, so a full socket there is an error.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Owns one datagram socket to the supervisor, or nothing."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        pid = environ.get("WATCHDOG_PID")
        mine = pid is None or pid == str(os.getpid())
        self.watchdog_seconds = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0

    def ready(self, sentence: str) -> None:
        """Start-up is over."""
        self._send(f"READY=1\nSTATUS={_one_line(sentence)}", must=True)

    def alive(self, sentence: str) -> None:
        """The working loop came round: pets the watchdog and shows the sentence in `systemctl status`."""
        self._send(f"WATCHDOG=1\nSTATUS={_one_line(sentence)}")

    def reloading(self) -> None:
        """A reload began; call ready() at its end."""
        self._send("RELOADING=1")

    def stopping(self, sentence: str) -> None:
        """A clean stop began."""
        self._send(f"STOPPING=1\nSTATUS={_one_line(sentence)}")

    def extend(self, seconds: float) -> None:
        """A start or stop takes longer, legitimately: ask for `seconds` more."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str, *, must: bool = False) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:
            if must:
                raise


def _one_line(text: str) -> str:
    return " ".join(text.split())
