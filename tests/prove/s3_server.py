"""A real S3-speaking store in a process of its own, to be killed: SeaweedFS, as its package brings it.

It keeps objects on the disk and has them again after SIGKILL, which a mock does not; one process, ready in 2 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET = "checkpoints"
KEYS = {"AWS_ACCESS_KEY_ID": "selfware", "AWS_SECRET_ACCESS_KEY": "a-key-for-tests"}
READY_SECONDS = 60.0
PROBE = "probe"
PORTS = range(20_000, 32_000)


class S3Server:
    """Owns the process and its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._ports = _free_ports(8)
        self.endpoint = f"http://127.0.0.1:{self._ports[6]}"
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
        self._config = directory / "s3.json"
        self._config.write_text(
            json.dumps({"identities": [{"name": "selfware", "credentials": credentials, "actions": actions}]})
        )
        self.objects = S3Store(
            BUCKET,
            config={
                "endpoint": self.endpoint,
                "region": "us-east-1",
                "access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
                "secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
            },
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serving on return."""
        master, master_rpc, volume, volume_rpc, filer, filer_rpc, s3, s3_rpc = self._ports
        argv = [str(Path(sys.executable).parent / "weed"), "server", "-dir", str(self._directory)]
        argv += ["-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-master.telemetry=false", "-master.peers", "none"]
        argv += [f"-master.port={master}", f"-master.port.grpc={master_rpc}", "-master.volumeSizeLimitMB=128"]
        argv += [f"-volume.port={volume}", f"-volume.port.grpc={volume_rpc}", "-volume.max=50"]
        argv += ["-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_rpc}"]
        argv += ["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_rpc}", f"-s3.config={self._config}", "-s3.iam=false"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self._directory)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                obstore.put(self.objects, PROBE, b"ready?", use_multipart=False)
                return
            except BaseError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"the S3 server never served: {error}") from error
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def names(self) -> set[str]:
        """Every object, without the probe."""
        listed = {one["path"] for page in obstore.list(self.objects) for one in page}
        return listed - {PROBE}


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now, below those that outgoing connections take: they are needed again after each kill."""
    found: set[int] = set()
    while len(found) < count:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return sorted(found)
