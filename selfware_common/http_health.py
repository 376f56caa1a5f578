"""Asks an engine on a Unix socket whether it serves: GET /health, without an HTTP library.

The launcher that says READY=1 and the foreground supervisor ask in the same way.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

LIMIT_SECONDS = 2.0
REQUEST = b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"


async def answers(socket_path: Path) -> bool:
    """503 means that the engine still loads its model; any other answer, that it serves."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError:
        return False
    try:
        writer.write(REQUEST)
        answer = await asyncio.wait_for(reader.readline(), LIMIT_SECONDS)
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
    words = answer.split()
    return len(words) > 1 and words[1] != b"503"
