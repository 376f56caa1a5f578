"""Real faults of a real file system, in a private mount namespace: full, out of inodes, read-only, and well again.

Each scenario is a program of its own beside a checkpointd of its own, whose directory is a small tmpfs. Whatever is
refused is refused with one sentence, what was acknowledged stays readable meanwhile, and work goes on by itself, in the
same process, when the disk is well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
IN_A_NAMESPACE = """
set -e
mkdir -p "$1/state/checkpointd"
mount -t tmpfs -o "$2" tmpfs "$1/state/checkpointd"
exec "$3" -c "$4" "$1"
"""
BEGIN = """
import atexit, os, subprocess, sys
from pathlib import Path
import grpc
from selfware_common.rpc import checkpoint_pb2 as pb
from tests.process.test_checkpointd import Server
home = Path(sys.argv[1])
disk = home / "state/checkpointd"
server = Server(home)
atexit.register(lambda: server.process.kill())
epoch = server.open().epoch


def refused(what, *given):
    try:
        what(*given)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
        return True
    return False


def intact(count):
    verdicts = server.stub.Verify(pb.VerifyRequest(), timeout=20).verdicts
    assert len(verdicts) == count and all(one.intact for one in verdicts), verdicts


"""
FULL = """
MICRO, SESSION = pb.LEVEL_MICRO, pb.LEVEL_SESSION
server.append(epoch, 1, b"one")
server.save(epoch, 1, os.urandom(1_000_000))
server.stub.Maintain(pb.MaintainRequest(), timeout=60)
assert (disk / "reserve").stat().st_size == 2 << 20
ballast = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
try:
    while os.write(ballast, bytes(4096)):
        pass
except OSError:
    os.close(ballast)
assert refused(server.append, epoch, 2, bytes(100_000))
last = os.urandom(1_500_000)
assert refused(lambda: server.save(epoch, 1, last[:60_000], MICRO)), "the reserve is not for these"
assert (disk / "reserve").exists()
server.save(epoch, 1, last)
assert not (disk / "reserve").exists()
assert server.recover()[1] == last
assert refused(server.save, epoch, 1, os.urandom(1_500_000))
intact(2)
(disk / "ballast").unlink()
assert server.append(epoch, 2, b"two") == 2
server.save(epoch, 2, os.urandom(1_500_000))
server.stub.Maintain(pb.MaintainRequest(), timeout=60)
assert (disk / "reserve").stat().st_size == 2 << 20
intact(3)
"""
NO_INODES = """
server.append(epoch, 1, b"one")
server.save(epoch, 1, os.urandom(100_000))
made = 0
try:
    while True:
        (disk / f"file-{made}").touch()
        made += 1
except OSError:
    pass
assert made > 10
kept = 1
while not refused(server.save, epoch, 1, os.urandom(50_000 + kept)):
    kept += 1
    assert kept < 5
assert server.append(epoch, 2, b"two") == 2, "the open segment needs no inode"
assert refused(server.open, "another")
intact(kept)
for number in range(made):
    (disk / f"file-{number}").unlink()
server.save(epoch, 2, os.urandom(100_000))
assert server.open("another").epoch == 1
intact(kept + 1)
"""
READ_ONLY = """
state = os.urandom(500_000)
server.save(epoch, 0, state)


def remount(how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


remount("ro")
assert refused(server.save, epoch, 0, os.urandom(100_000))
assert refused(server.append, epoch, 1, b"one")
assert refused(server.open, "another")
assert refused(lambda: server.stub.Maintain(pb.MaintainRequest(), timeout=60)) in (True, False)
assert server.recover()[1] == state
intact(1)
remount("rw")
assert server.append(epoch, 1, b"one") == 1
server.save(epoch, 1, os.urandom(100_000))
assert server.open("another").epoch == 1
intact(2)
"""
END = """
server.end()
server = Server(home)
assert server.recover()[0].last_sequence >= 1
server.end()
"""


def happen(options: str, scenario: str) -> list[str]:
    """Let it happen; what callers were told, one line each. Skips where a namespace cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    with tempfile.TemporaryDirectory(prefix="sw-") as home:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", IN_A_NAMESPACE, "sh", home, options, sys.executable, BEGIN + scenario + END],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(f"no private mount namespace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_when_the_disk_is_full_the_reserve_lets_the_last_checkpoint_in() -> None:
    said = happen("size=64m", FULL)
    assert [line.split()[0] for line in said] == ["RESOURCE_EXHAUSTED"] * 3
    assert all("No space left for" in line and "saving resumes by itself" in line for line in said)


def test_without_a_free_inode_saving_waits_and_goes_on() -> None:
    said = happen("size=64m,nr_inodes=80", NO_INODES)
    assert [line.split()[0] for line in said] == ["RESOURCE_EXHAUSTED"] * 2
    assert all("No space left for" in line for line in said)


def test_on_a_disk_that_became_read_only_everything_stays_readable_and_work_goes_on() -> None:
    said = happen("size=64m", READ_ONLY)
    assert len(said) >= 3
    assert all(line.startswith("UNAVAILABLE Cannot write") and "Read-only file system" in line for line in said[:3])
