"""Server-sent events from bytes: the framing of every streaming OpenAI-compatible answer.

Pure: bytes in, the data of complete events out. Lines may end in LF or CRLF and may be cut anywhere, even inside a
character. Comments (": ping") carry nothing. An old llama.cpp reports errors in a field of its own named "error".
"""

from __future__ import annotations

DONE = b"[DONE]"


class SseParser:
    """Owns the unfinished rest of the stream."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            if event := self._line(line.removesuffix(b"\r")):
                events.append(event)
        return events

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            event, self._data = b"\n".join(self._data), []
            return event or None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"error":
            self._data.append(b'{"error":' + value + b"}")
        return None
