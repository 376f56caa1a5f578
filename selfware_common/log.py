"""One log line per fact, to journald's native socket when systemd runs us, else to stderr.

journald's own Python clients and a plain stderr stream block for ever when journald stalls, which turns a slow log
into a watchdog kill. This client never blocks: a full socket drops the line and counts it, and the count is reported
with the next line that gets through.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import time
from typing import Any

EMERGENCY = logging.CRITICAL + 10
"""Journald shows these on every terminal that an operator is logged in on."""
JOURNAL_SOCKET = "/run/systemd/journal/socket"
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2, EMERGENCY: 0}
_PREFIX = "SELFWARE_"


class JournalHandler(logging.Handler):
    """Sends records in journald's native protocol, non-blocking."""

    def __init__(self, identifier: str, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self.dropped = 0
        self._identifier = identifier
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, str] = {
            "MESSAGE": record.getMessage(),
            "PRIORITY": str(_PRIORITY.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": self._identifier,
        }
        if message_id := getattr(record, "message_id", ""):
            fields["MESSAGE_ID"] = message_id
        if self.dropped:
            fields["SELFWARE_DROPPED_LINES"] = str(self.dropped)
        for name, value in _selfware_fields(record).items():
            fields[name] = str(value)
        try:
            self._socket.sendto(encode(fields), self._address)
            self.dropped = 0
        except OSError:
            self.dropped += 1


class StderrHandler(logging.Handler):
    """A foreground line: time, daemon, sentence. A vanished terminal is not an error."""

    def __init__(self, identifier: str) -> None:
        super().__init__()
        self._identifier = identifier.removeprefix("selfware-")

    def emit(self, record: logging.LogRecord) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        try:
            sys.stderr.write(f"{stamp} {self._identifier:<11} {mark}{printable(record.getMessage())}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def setup(identifier: str, level: str = "info") -> logging.Logger:
    """The root logger of a daemon, writing to the journal if it is ours to write to."""
    logger = logging.getLogger()
    logger.handlers.clear()
    logger.setLevel(getattr(logging, level.upper(), logging.INFO))
    under_systemd = "JOURNAL_STREAM" in os.environ or "INVOCATION_ID" in os.environ
    handler: logging.Handler = JournalHandler(identifier) if under_systemd else StderrHandler(identifier)
    logger.addHandler(handler)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    return logging.getLogger(identifier)


def fields(**values: Any) -> dict[str, Any]:
    """`log.info("...", extra=fields(task_id="t-1"))` puts SELFWARE_TASK_ID=t-1 beside the sentence."""
    return {"selfware": {_PREFIX + name.upper(): value for name, value in values.items()}}


def event(message_id: str, **values: Any) -> dict[str, Any]:
    """The same for an entry that the message catalog explains (`journalctl -x`); ids are in catalog.py."""
    return {**fields(**values), "message_id": message_id}


def encode(entry: dict[str, str]) -> bytes:
    """Journald's native protocol: NAME=value lines, or NAME, length (u64 LE) and bytes for values with newlines."""
    parts = []
    for name, text in entry.items():
        value = text.encode("utf-8", "replace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def printable(text: str) -> str:
    """Text that cannot drive a terminal: control and format characters become visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _selfware_fields(record: logging.LogRecord) -> dict[str, Any]:
    found = getattr(record, "selfware", {})
    return found if isinstance(found, dict) else {}
