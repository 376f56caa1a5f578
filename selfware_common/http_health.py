"""Asks an engine on a Unix socket whether it serves, without an HTTP library.

The launcher that says READY=1 and the foreground supervisor ask in the same way.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

LIMIT_SECONDS = 2.0
LONGEST_ANSWER_BYTES = 4 * 2**20
REQUEST = "GET {} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"


async def answers(socket_path: Path) -> bool:
    """503 means that the engine still loads its model; any other answer, that it serves."""
    status, _ = await get(socket_path, "/health", whole=False)
    return status not in (0, 503)


async def get(socket_path: Path, path: str, *, whole: bool = True) -> tuple[int, bytes]:
    """Status, and the rest of the answer with its headers, as the lines came; (0, b"") when there is no answer within
    two seconds. `whole=False` leaves after the first line."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError:
        return 0, b""
    try:
        writer.write(REQUEST.format(path).encode())
        async with asyncio.timeout(LIMIT_SECONDS):
            words = (await reader.readline()).split()
            rest = await _rest(reader) if whole else b""
    except (OSError, TimeoutError, ValueError):  # ValueError: a first line without an end
        return 0, b""
    finally:
        writer.close()
    return (int(words[1]), rest) if len(words) > 1 and words[1].isdigit() else (0, b"")


async def _rest(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while len(found) < LONGEST_ANSWER_BYTES and (piece := await reader.read(65536)):
        found += piece
    return bytes(found)
