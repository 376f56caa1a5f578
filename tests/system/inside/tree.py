"""Runs inside a booted image, as selfware-oversightd: has a tool unit save a workspace into a file, or put it back.

    tree.py capture|plan|restore WORKSPACE FILE

As oversightd does it, but without ledger and pause: these tests are about what the unit's user can do.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]

import socket

from selfware_common.trees import read_tree
from selfware_tool.units import HEADER, Units


def main() -> None:
    """Prints the keeper's answer."""
    what, workspace, path = sys.argv[1:]
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if what == "capture" else os.O_RDONLY
    file = os.open(path, flags, 0o600)
    message = {"tree": "capture", "content_bytes": 1 << 30, "entries": 10_000, "reserve_bytes": 0, "spool": path}
    if what != "capture":
        with open(path, "rb") as stream:
            stream_hash = read_tree(stream).stream_hash.hex()
        size = os.stat(path).st_size
        message = {
            "tree": "restore",
            "offset": 0,
            "length": size,
            "stream_hash": stream_hash,
            "dry_run": what == "plan",
        }
    data = json.dumps({**message, "workspace": workspace, "forbidden": ["/run/selfware", "/etc/selfware"]}).encode()
    connection = Units(Path("/run/selfware/tool.sock"), ahead=0).connection()
    connection.settimeout(60)
    socket.send_fds(connection, [HEADER.pack(len(data)) + data], [file])
    with connection.makefile("rb") as answer:
        (length,) = HEADER.unpack(answer.read(HEADER.size))
        print(answer.read(length).decode())


if __name__ == "__main__":
    main()
