"""What is said on checkpointd's bulk socket, where states travel: gRPC takes 2.5 ms for each MiB, this a tenth.

A Unix stream socket. Either side sends messages: length of the head (u32, little-endian), the head as JSON, and as many
bytes as its field "body" says. A client's message may carry one open file. Requests ("call"), each answered in turn:

    early  lengths; body: chunks that the save which follows has as its last new ones, one after the other
           -> no answer
    save   session_id epoch level sequence label root base spans lengths early; body: the new chunks, one by one
           spans: [[chunk of the base or -1 for new, count], ...]; lengths: of the new chunks; root: hex
           early: how many more new chunks came just before it (all of them, or 0: then they are as if never sent)
           -> checkpoint, or {"unknown_base": true}: send everything
    put    session_id epoch level sequence label; the state is the open file
           -> checkpoint
    get    checkpoint_id; the state is written into the open file
           -> checkpoint

An error is answered as {"error": sentence, "status": gRPC's name for it}. Light to import, for short-lived clients.
"""

from __future__ import annotations

import _socket  # what socket's own import adds takes 5 ms, and nothing of it is needed here
import os
import struct

from selfware_common import plainjson
from selfware_common.record import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BULK_SOCKET = "bulk.sock"
LENGTH = struct.Struct("<I")
FILE = struct.Struct("i")
MAX_HEAD_BYTES = 16 * 1024 * 1024
MAX_PIECES = 1000  # IOV_MAX is 1024

Bytes = bytes | bytearray | memoryview
Connection = _socket.socket
"""Also a socket.socket: that is made of it."""


class BrokenOffError(Exception):
    """The other side went away in the middle of a message."""


def send(connection: Connection, head: dict[str, Any], body: Sequence[Bytes] = (), file: int = -1) -> None:
    """One message; OSError if the other side is gone."""
    text = plainjson.dumps({**head, "body": sum(map(len, body))}).encode()
    pieces = [memoryview(LENGTH.pack(len(text)) + text), *(memoryview(piece).cast("B") for piece in body if len(piece))]
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, FILE.pack(file))] if file >= 0 else []
    while pieces:
        sent = connection.sendmsg(pieces[:MAX_PIECES], rights)
        rights = []
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.pop(0))
        if sent:
            pieces[0] = pieces[0][sent:]


def receive(connection: Connection) -> tuple[dict[str, Any], int] | None:
    """The head of the next message and the file that came with it (or -1), which the caller closes; None at the end.

    Raises BrokenOffError, ValueError for what is no message. The body is still to be read.
    """
    start, extra, _, _ = connection.recvmsg(LENGTH.size, _socket.CMSG_LEN(FILE.size))
    file = _file_in(extra)
    if not start:
        return None
    try:
        if file >= 0:
            os.set_inheritable(file, False)
        start += receive_exactly(connection, LENGTH.size - len(start))
        (length,) = LENGTH.unpack(start)
        if length > MAX_HEAD_BYTES:
            raise ValueError(f"a head of {length} bytes")
        head = plainjson.loads(receive_exactly(connection, length).decode())
        if not isinstance(head, dict) or not isinstance(head.get("body"), int) or head["body"] < 0:
            raise ValueError("a head without the length of its body")
    except BaseException:
        if file >= 0:
            os.close(file)
        raise
    return head, file


def _file_in(extra: Sequence[tuple[int, int, bytes]]) -> int:
    for level, kind, data in extra:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(data) >= FILE.size:
            (file,) = FILE.unpack_from(data)
            return int(file)
    return -1


def receive_exactly(connection: Connection, size: int) -> bytearray:
    """So many bytes; BrokenOffError if fewer come."""
    data = bytearray(size)
    receive_into(connection, memoryview(data))
    return data


def receive_into(connection: Connection, view: memoryview) -> None:
    """Fill the view; BrokenOffError if fewer bytes come."""
    while view:
        size = connection.recv_into(view)
        if not size:
            raise BrokenOffError
        view = view[size:]
