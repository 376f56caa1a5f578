"""A real full disk: a small tmpfs in a private mount namespace, so nothing outside can be hurt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SCENARIO = """
import asyncio, os, sys
from pathlib import Path
from selfware_common.errors import DiskFullError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.segment import Record
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.retention import newest_only
from selfware_checkpointd.store import Store

root = Path(sys.argv[1])


async def upkeep_on_a_full_disk():
    # loose packs that would be packed tighter, if there were room for it
    memory = Memory(root)
    said = await memory.maintain(newest_only({Level.TASK: 20}))
    assert "no more than that: No space left" in said, said
    assert all(verdict.intact for verdict in memory.store.verify_all())
    await memory.close()


journal, store = Journal(root / "j", "s", segment_bytes=300_000), Store(root / "checkpoints")
store.save("s", Level.TASK, 1, os.urandom(600_000), "", 1)
good = store.load("ckpt-00000001")
sequence = 0
try:
    while True:
        journal.append([Record(1, sequence + 1, 1, "Step", bytes([sequence % 251]) * 9000)])
        sequence += 1
except DiskFullError as error:
    print(error)
for size in (1_000_000, 100_000):
    try:
        store.save("s", Level.TASK, 2, os.urandom(size), "", 2)
        raise SystemExit("saved on a full disk")
    except DiskFullError as error:
        print(error)
try:
    journal.append([Record(1, sequence + 1, 1, "Step", bytes(9000))])
    raise SystemExit("appended on a full disk")
except DiskFullError:
    pass
assert store.load("ckpt-00000001") == good and not list(root.rglob("*.tmp"))
again = Journal(root / "j", "s")
assert again.opened == [] and [r.sequence for r in again.read()] == list(range(1, sequence + 1))
again.close()
asyncio.run(upkeep_on_a_full_disk())
(root / "ballast").unlink()
journal.append([Record(1, sequence + 1, 1, "Step", b"space again")])
store.save("s", Level.TASK, 2, os.urandom(100_000), "", 2)
assert [r.sequence for r in Journal(root / "j", "s").read()] == list(range(1, sequence + 2))
assert all(verdict.intact for verdict in Store(root / "checkpoints").verify_all())
print("acknowledged", sequence)
"""


def test_a_full_disk_is_one_clear_error_loses_nothing_and_passes(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        print("skipped: needs root and unshare(1) for a private tmpfs")
        pytest.skip("needs root and unshare(1) for a private tmpfs")
    root = Path(__file__).parents[3]
    script = (
        f"mount -t tmpfs -o size=3m tmpfs {tmp_path} || exit 77; head -c 500000 /dev/zero > {tmp_path}/ballast; "
        f'exec "$0" -c "$1" {tmp_path}'
    )
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, sys.executable, _SCENARIO],
        env={**os.environ, "PYTHONPATH": f"{root / 'daemons'}:{root}"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode in (1, 77) and ("Operation not permitted" in done.stderr or "permission denied" in done.stderr):
        print(f"skipped: {done.stderr.strip()}")
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("No space left for events of session s in ") and "Free some space there" in lines[0]
    assert lines[1].startswith("No space left for a checkpoint of session s in ")
    assert int(lines[-1].split()[1]) > 50
