"""The cold tier of a real checkpointd: a sample of the proof against a real S3 store, and what people see of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from selfware_common import clients, paths
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc
from tests.process.test_checkpointd import Server
from tests.prove import cold


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        yield Path(directory)


def configure(home: Path, text: str) -> None:
    where = paths.foreground(home)
    where.config.mkdir(parents=True, exist_ok=True)
    where.config_file.write_text("[checkpoint.cold]\n" + text)


def ctl(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selfwarectl", *words],
        env={**os.environ, "SELFWARE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_whoever_is_killed_while_packs_move_to_an_s3_store_nothing_is_lost_and_nothing_left_over() -> None:
    verdict = cold.prove(rounds=4, seed=3)
    assert verdict.faults >= 4
    assert verdict.ok, verdict


def test_people_see_where_a_checkpoint_lies_and_that_the_store_is_away(home: Path) -> None:
    configure(home, f'directory = "{home}/cold"\nafter_seconds = 0.0\nkeep_local_bytes = 0\n')
    server = Server(home)
    try:
        epoch = server.open().epoch
        states = [os.urandom(300_000), os.urandom(300_000)]
        for number, state in enumerate(states):
            server.save(epoch, number, state)
        said = server.stub.Maintain(pb.MaintainRequest(), timeout=60).sentence
        assert "copied 2 packs" in said and "freed" in said
        lines = ctl(home, "checkpoints", "ls").stdout.splitlines()
        assert "TIER" in lines[0]
        assert "warm and cold" in lines[1] and "  cold  " in lines[2]
        assert "2 of 2 checkpoints are intact" in ctl(home, "checkpoints", "verify").stdout
        server.end(signal.SIGTERM)
        server = Server(home)
        epoch = server.open().epoch

        mark = home / "cold/selfware-cold-store"
        mark.rename(home / "mark")
        with pytest.raises(grpc.RpcError) as raised:
            list(server.stub.Load(pb.LoadRequest(checkpoint_id="ckpt-00000001"), timeout=60))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        verified = ctl(home, "checkpoints", "verify")
        assert verified.returncode == 1
        assert "ckpt-00000001 cannot be verified now" in verified.stdout and "is it mounted?" in verified.stdout
        assert "damaged" not in verified.stdout
        server.save(epoch, 2, os.urandom(300_000))
        assert "the cold store waits" in server.stub.Maintain(pb.MaintainRequest(), timeout=60).sentence
        status = daemon_pb2_grpc.DaemonStub(clients.sync_channel(home / "run/checkpointd/api.sock"))
        deadline = time.monotonic() + 20
        while "the cold store waits" not in (told := status.Status(daemon_pb2.StatusRequest(), timeout=20)).sentence:
            server.save(epoch, 3, os.urandom(1000))  # each save is followed by a cycle
            assert time.monotonic() < deadline, told.sentence
        assert told.facts["cold_packs"] == "2"

        (home / "mark").rename(mark)
        assert "copied" in server.stub.Maintain(pb.MaintainRequest(), timeout=60).sentence
        assert ctl(home, "checkpoints", "verify").returncode == 0
    finally:
        errors = server.end(signal.SIGTERM)
    assert "Traceback" not in errors


def test_an_s3_store_without_keys_is_refused_in_a_sentence(home: Path) -> None:
    configure(home, 'url = "s3://bucket/prefix"\n')
    ran = subprocess.run(
        [sys.executable, "-m", "selfware_checkpointd"],
        env={"SELFWARE_HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 78
    assert "checkpoint.cold.access_key_id" in ran.stderr and "AWS_SECRET_ACCESS_KEY" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_daemon_without_a_cold_tier_does_not_load_the_library() -> None:
    code = "import sys; from selfware_checkpointd import __main__; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
