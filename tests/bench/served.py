"""A real checkpointd process for benchmarks, its client calls, and how many bytes it keeps.

Owns the process. The home is the caller's; it must lie on a real disk, else durability would cost nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from selfware_common.state.wire import BULK_SOCKET

CALL_SECONDS = 300.0


class Checkpointd:
    """`with Checkpointd(home) as daemon`: started, waited for, ended."""

    def __init__(self, home: Path, is_encrypted: bool = False) -> None:
        self.home = home
        if is_encrypted:
            home.mkdir(parents=True, exist_ok=True)
            key = home / "key"
            key.touch(0o600)
            key.write_bytes(os.urandom(32))
            (home / "etc").mkdir()
            settings = f'[checkpoint.encryption]\nenabled = true\nkey_file = "{key}"\n'
            (home / "etc/selfware.toml").write_text(settings)
        self.socket = home / "run/checkpointd/api.sock"
        self.bulk = home / "run/checkpointd" / BULK_SOCKET

    def __enter__(self) -> Checkpointd:
        environ = {**os.environ, "SELFWARE_HOME": str(self.home)}
        argv = [sys.executable, "-m", "selfware_checkpointd"]
        self.process = subprocess.Popen(argv, env=environ, stderr=subprocess.DEVNULL)
        self.channel = clients.sync_channel(self.socket)
        self.stub = checkpoint_pb2_grpc.CheckpointStub(self.channel)
        self.stub.ListSessions(pb.ListSessionsRequest(), timeout=60, wait_for_ready=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def open(self, session_id: str) -> pb.OpenSessionReply:
        """Become the session's writer."""
        request = pb.OpenSessionRequest(session_id=session_id, writer_id="bench")
        return self.stub.OpenSession(request, timeout=CALL_SECONDS)

    def latest(self, session_id: str) -> str:
        """The id of the session's newest checkpoint."""
        return self.stub.Latest(pb.LatestRequest(session_id=session_id), timeout=60).checkpoint_id

    def peak_bytes(self) -> int:
        """The most memory that it had, so far (VmHWM, proc(5))."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """What it has spent of the processors so far, whoever else used them (utime and stime, proc(5))."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def maintain(self) -> str:
        """Have it do now what it does every minute."""
        return self.stub.Maintain(pb.MaintainRequest(), timeout=CALL_SECONDS).sentence

    def stored_bytes(self) -> int:
        """Everything under its state directory."""
        return tree_bytes(self.home / "state/checkpointd")


def tree_bytes(root: Path) -> int:
    """The lengths of all files below a directory, but for the reserve: that is room for a last checkpoint on a full
    disk (up to 64 MiB, whatever is stored), and nothing that was stored."""
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and path.name != "reserve")
