"""Runs in the virtual machine, as root: executes what the test sends through a virtio port and answers with the result.

One request at a time, over and over. Both ways a message is a frame:

    4 bytes  length of the header, big endian
    4 bytes  length of the body
    header   JSON; request: argv, env, timeout; answer: status (null when it ran out of time), out (length of stdout)
    body     request: standard input; answer: stdout, then stderr

Uses only the standard library's quick imports: Python starts slowly where the processor is emulated. image.py puts this
file into the disk image; nothing else may import it there.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import time

PORT = "/dev/virtio-ports/selfware-test"
LENGTHS = struct.Struct(">II")


def receive(port: int, size: int) -> bytes:
    """Exactly that many bytes. While nobody holds the other end, a read returns nothing: wait."""
    data = bytearray()
    while len(data) < size:
        select.select([port], [], [])
        part = os.read(port, min(size - len(data), 1 << 20))
        if not part:
            time.sleep(0.05)
        data += part
    return bytes(data)


def send(port: int, header: dict[str, object], body: bytes) -> None:
    """One frame."""
    packed = json.dumps(header).encode()
    data = memoryview(LENGTHS.pack(len(packed), len(body)) + packed + body)
    while data:
        data = data[os.write(port, data[: 1 << 16]) :]


def execute(
    argv: list[str], environment: dict[str, str], timeout: float, data: bytes
) -> tuple[int | None, bytes, bytes]:
    """Status, stdout and stderr of a command; no status when it had to be killed."""
    try:
        process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return 127, b"", f"{argv[0]}: {error.strerror}\n".encode()
    try:
        out, err = process.communicate(data, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return None, out, err
    return process.returncode, out, err


def main() -> None:
    """Answer for ever."""
    while not os.path.exists(PORT):  # udev names the port
        time.sleep(0.05)
    port = os.open(PORT, os.O_RDWR)
    while True:
        header_size, body_size = LENGTHS.unpack(receive(port, LENGTHS.size))
        request = json.loads(receive(port, header_size))
        status, out, err = execute(request["argv"], request["env"], request["timeout"], receive(port, body_size))
        send(port, {"status": status, "out": len(out)}, out + err)


if __name__ == "__main__":
    main()
