"""The scrub of a real checkpointd: damage that nobody read is found, told, seen everywhere, and heals."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selfware_common import clients, paths
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc
from tests.process.test_checkpointd import Server
from tests.process.test_cold import ctl

DEADLINE_SECONDS = 60.0


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        where = paths.foreground(Path(directory))
        where.config.mkdir(parents=True)
        where.config_file.write_text("[checkpoint]\nscrub_days = 0.00001\n")  # a pass a second
        yield Path(directory)


def until(server: Server, holds: Callable[[], bool]) -> None:
    """Tidy, which scrubs what is due, until it holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        server.stub.Maintain(pb.MaintainRequest(), timeout=60)
        time.sleep(0.1)


def test_damage_is_found_by_itself_and_heals_when_the_same_bytes_are_saved_again(home: Path) -> None:
    server = Server(home)
    try:
        epoch = server.open().epoch
        state = os.urandom(400_000)
        server.save(epoch, 1, state)
        server.save(epoch, 2, os.urandom(100_000))
        pack = home / "state/checkpointd/checkpoints/ckpt-00000001.pack"
        server.stub.Maintain(pb.MaintainRequest(), timeout=60)  # it is packed tight, and lies still now
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)

        def damage() -> str:
            listed = server.stub.List(pb.ListRequest(), timeout=20).checkpoints
            return next(one.damage for one in listed if one.checkpoint_id == "ckpt-00000001")

        until(server, lambda: bool(damage()))
        assert "of its 400000 bytes" in damage()
        lines = ctl(home, "checkpoints", "ls").stdout.splitlines()
        assert "warm, damaged" in lines[2] and "damaged" not in lines[1]
        status = daemon_pb2_grpc.DaemonStub(clients.sync_channel(home / "run/checkpointd/api.sock"))
        server.save(epoch, 3, b"wakes the cycle")
        until(
            server, lambda: "damaged: ckpt-00000001" in status.Status(daemon_pb2.StatusRequest(), timeout=20).sentence
        )
        assert status.Status(daemon_pb2.StatusRequest(), timeout=20).facts["damaged_checkpoints"] == "1"

        server.save(epoch, 4, state)
        until(server, lambda: pack.read_bytes() != data)
        assert not damage()
        server.save(epoch, 5, b"wakes the cycle again")
        until(server, lambda: "ckpt-00000005" in status.Status(daemon_pb2.StatusRequest(), timeout=20).sentence)
    finally:
        errors = server.end(signal.SIGTERM)
    assert "chunks of ckpt-00000001 are lost" in errors
    assert "ckpt-00000001.pack was damaged and is healed" in errors
    assert "Traceback" not in errors
    server = Server(home)
    server.open()
    loaded = b"".join(one.data for one in server.stub.Load(pb.LoadRequest(checkpoint_id="ckpt-00000001"), timeout=60))
    server.end()
    assert loaded == state
