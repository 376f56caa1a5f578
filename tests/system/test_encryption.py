"""Encryption at rest on a booted machine, switched on as docs/installing.md says; and the cold store, as it says.

One machine for all of it, in order: each test goes on where the one before it ended.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system import documented, installed
from tests.system.conftest import MachineFactory
from tests.system.machine import Machine

UNIT = "selfware-checkpointd.service"
STATE = "/var/lib/selfware/checkpointd"
CREDENTIAL = "/etc/credstore.encrypted/checkpoint-key"
GIVEN = f"/run/credentials/{UNIT}/checkpoint-key"
WORD = "part 0;"
"""Of the first goal: in the journal and in every state."""
ENCRYPTED = {"pack 3", "segment 2", "sealed 1"}
DISK = "/mnt/archive/selfware"
S3_PORT = 8333
S3_SECRET = "a-key-for-tests"
S3_USER: dict[str, Any] = {
    "name": "selfware",
    "credentials": [{"accessKey": "selfware", "secretKey": S3_SECRET}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}
S3_SERVER = (
    "server", "-dir", "/srv", "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-master.telemetry=false",
    "-master.peers", "none", "-master.volumeSizeLimitMB=128", "-volume.max=10", "-filer", "-s3", f"-s3.port={S3_PORT}",
    "-s3.config=/srv/s3.json", "-s3.iam=false",
)  # fmt: skip
NOT_SECRET = ("/writer", "/scrub", "/reserve", "/tags", "/floor")
"""docs/formats.md, 'What encryption leaves readable'."""


@pytest.fixture(scope="module")
def box(machine_factory: MachineFactory) -> Iterator[Machine]:
    """The jobs of before are not encrypted."""
    with machine_factory() as machine:
        installed.put_on(machine)
        work(machine, 0, 2)
        yield machine


def work(box: Machine, first: int, count: int) -> None:
    """So many tasks more, each with a checkpoint at its end."""
    installed.job(box, "submit", first, count)
    installed.job(box, "wait", first + count, 90)


def at_rest(box: Machine, *directories: str) -> dict[str, dict[str, Any]]:
    """What each file is, without those that are never encrypted."""
    told: dict[str, dict[str, Any]] = json.loads(
        box.run("python3", "/opt/atrest.py", WORD, *(directories or (STATE,))).stdout
    )
    return {path: one for path, one in told.items() if not path.endswith(NOT_SECRET)}


def encrypting_with(box: Machine) -> str:
    """The id of the key, as checkpointd says it."""
    daemons = json.loads(box.run("selfwarectl", "status", "--json").stdout)["daemons"]
    (facts,) = (one["facts"] for one in daemons if one["name"] == "checkpointd")
    return str(facts["encrypted_with_key"])


def all_is_there(box: Machine) -> int:
    """Every checkpoint can be read, and the journal goes with what happened; how many checkpoints there are."""
    verified = box.run("selfwarectl", "checkpoints", "verify").stdout
    intact, known = re.findall(r"(\d+) of (\d+) checkpoints are intact", verified)[0]
    assert intact == known and int(known) > 0, verified
    verdict = installed.verdict(box)
    assert (verdict["lost"], verdict["duplicated"], verdict["gaps"]) == (0, 0, 0), verdict
    return int(known)


def named(said: str) -> str:
    """The id of the key that new-key speaks of."""
    (name,) = re.findall(r"key ([0-9a-f]{16})", said)
    return str(name)


def tidy(box: Machine) -> None:
    """Twice: what the first makes old, the second removes."""
    for _ in range(2):
        box.run("selfwarectl", "checkpoints", "tidy", timeout=120)


def restart(box: Machine, check: bool = True) -> bool:
    """As every error of ours says."""
    box.run("systemctl", "daemon-reload")
    return box.run("systemctl", "restart", UNIT, check=check, timeout=120).returncode == 0


def refused(box: Machine) -> list[str]:
    """Restart checkpointd, which must not come up: what it says itself."""
    before = said(box)
    assert not restart(box, check=False)
    assert box.run("systemctl", "is-failed", UNIT).stdout.strip() == "failed"
    return said(box)[len(before) :]


def said(box: Machine) -> list[str]:
    """All that checkpointd said, but not what systemd said of it."""
    lines = box.journal(UNIT, "-o", "json", "_SYSTEMD_UNIT=" + UNIT).splitlines()
    messages = [str(json.loads(line)["MESSAGE"]) for line in lines]
    return [one for one in messages if one not in {"stopping", "stopped"}]


def test_what_is_written_after_the_documented_steps_is_encrypted(box: Machine) -> None:
    before = at_rest(box)
    assert {one["form"] for one in before.values()} <= {"pack 1", "pack 2", "segment 1"}
    assert any(one["tells"] for path, one in before.items() if path.endswith(".pack")), before
    assert any(one["tells"] for path, one in before.items() if path.endswith(".wal")), before

    done = documented.follow(box, "Encryption", "systemd-creds encrypt --name=checkpoint-key key /etc")
    key = named(done.stderr)
    assert not box.exists("/root/key")
    assert encrypting_with(box) == key
    between = at_rest(box)  # some are made while somebody types
    work(box, 2, 2)
    files = at_rest(box)
    new = [one for path, one in files.items() if path.endswith(".pack") and path not in between]
    new.append(files[max(path for path in files if path.endswith(".wal"))])
    assert {(one["form"], one["key"]) for one in new} == {("pack 3", key), ("segment 2", key)}
    assert not any(one["tells"] for one in new), new

    tidy(box)
    files = at_rest(box)
    assert {one["form"] for one in files.values()} <= ENCRYPTED, files
    assert not any(one["tells"] for one in files.values()), files
    assert all_is_there(box) >= 4


def test_nobody_else_reads_the_key(box: Machine) -> None:
    assert box.run("cat", GIVEN, user="selfware-checkpointd").stdout.strip()
    for user in ("selfware-agent", "selfware-tool", "selfware-oversightd", "selfware-inferenced", "nobody"):
        for path in (GIVEN, CREDENTIAL):
            done = box.run("cat", path, user=user, check=False)
            assert done.returncode != 0 and not done.stdout and "Permission denied" in done.stderr, (user, done)
    told = installed.script(box, f"cat {GIVEN} {CREDENTIAL}; ls /run/credentials/* /etc/credstore.encrypted")
    assert told["exit_status"] != 0
    assert "checkpoint-key\n" not in told["output"].replace(f"{GIVEN}", "").replace(CREDENTIAL, ""), told
    assert not re.search(r"[0-9a-f]{64}", told["output"]), told


def test_all_is_read_again_after_the_machine_was_shut_down(box: Machine) -> None:
    key, known = encrypting_with(box), all_is_there(box)
    box.poweroff()
    box.boot()
    installed.all_active(box)
    assert encrypting_with(box) == key
    assert all_is_there(box) >= known
    work(box, 4, 1)


def test_without_its_key_checkpointd_says_so_once_and_loses_nothing(box: Machine) -> None:
    known = all_is_there(box)
    box.run("mv", CREDENTIAL, "/root/away")
    sentences = refused(box)
    assert len(sentences) == 1, sentences
    assert sentences[0].startswith("Checkpoints are to be encrypted, and there is no key: systemd gave no credential")
    assert "put back the key that it had" in sentences[0]
    asked = box.run("selfwarectl", "checkpoints", "ls", check=False)
    assert asked.returncode == 3
    assert "journalctl -u selfware-checkpointd -n 20" in asked.stderr
    told = box.run("selfwarectl", "status").stdout
    assert "selfware-checkpointd.service failed for good (it ended with an error, status 78)" in told

    box.run("mv", "/root/away", CREDENTIAL)
    assert restart(box)
    assert all_is_there(box) >= known
    work(box, 5, 1)


def test_a_key_that_is_not_the_right_one_is_named_and_nothing_is_lost(box: Machine) -> None:
    key, known = encrypting_with(box), all_is_there(box)
    box.run("mv", CREDENTIAL, "/root/away")
    box.shell(f"selfwarectl checkpoints new-key | systemd-creds encrypt --name=checkpoint-key - {CREDENTIAL}")
    (sentence,) = refused(box)
    assert f"is encrypted with key {key}, which is not among the credentials. Nothing was deleted." in sentence
    box.run("mv", "/root/away", CREDENTIAL)
    assert restart(box)
    assert all_is_there(box) >= known


def test_one_command_makes_a_new_key_the_one_that_encrypts(box: Machine) -> None:
    old, known = encrypting_with(box), all_is_there(box)
    key = named(documented.follow(box, "Encryption", "--install").stderr)
    assert key != old
    assert box.run("stat", "-c", "%a", "/root/key", CREDENTIAL).stdout.split() == ["600", "600"]
    box.run("rm", "/root/key")
    assert encrypting_with(box) == key
    assert all_is_there(box) >= known
    work(box, 6, 1)
    tidy(box)
    assert {one["key"] for one in at_rest(box).values()} == {key}


def test_the_old_key_may_go_once_upkeep_has_been_through_everything(box: Machine) -> None:
    documented.follow(box, "Encryption", "checkpoint-key-old")
    work(box, 7, 1)
    tidy(box)
    assert {one["key"] for one in at_rest(box).values()} == {encrypting_with(box)}
    known = all_is_there(box)
    box.run("rm", f"{CREDENTIAL}-old")
    assert restart(box)
    assert all_is_there(box) >= known


def test_old_checkpoints_move_to_a_directory_and_come_back(box: Machine) -> None:
    known = all_is_there(box)
    eager = "[checkpoint.cold]\nafter_seconds = 0\nkeep_local_bytes = 0\n"
    box.write("/etc/selfware/selfware.toml.d/70-soon.toml", eager)
    documented.follow(box, "Old checkpoints on another disk", "/mnt/archive")
    work(box, 8, 1)
    tidy(box)
    cold = at_rest(box, DISK)
    objects = {path: one for path, one in cold.items() if not path.endswith("/selfware-cold-store")}
    assert len(objects) >= known
    assert {(one["form"], one["tells"]) for one in objects.values()} == {("pack 3", False)}
    here = [path for path in at_rest(box) if path.endswith(".pack")]
    assert len(here) == 1, here  # the newest of the session

    assert restart(box)
    assert all_is_there(box) >= known


def test_a_disk_that_is_away_or_mounted_later_is_no_reason_to_fail(box: Machine) -> None:
    known = all_is_there(box)
    box.shell(f"systemctl stop {UNIT}; mv /mnt/archive /root/archive; mkdir /mnt/archive; systemctl start {UNIT}")
    asked = box.run("selfwarectl", "checkpoints", "verify", check=False)
    assert asked.returncode == 1
    assert f"directory {DISK}, cannot be reached: the file selfware-cold-store is not in it" in asked.stdout
    box.shell("mount -t tmpfs tmpfs /mnt/archive && cp -a /root/archive/selfware /mnt/archive/")
    assert all_is_there(box) >= known


def test_a_place_that_goes_with_the_unit_is_refused(box: Machine) -> None:
    box.write("/etc/selfware/selfware.toml.d/80-wrong.toml", '[checkpoint.cold]\ndirectory = "/var/tmp/cold"\n')
    box.run("install", "-d", "-o", "selfware-checkpointd", "/var/tmp/cold")
    (sentence,) = refused(box)
    wanted = "'checkpoint.cold.directory' must not be /var/tmp/cold: each daemon has a directory of its own there"
    assert wanted in sentence
    asked = box.run("selfwarectl", "config", "check", check=False)
    assert asked.returncode != 0 and wanted in asked.stderr
    box.run("rm", "/etc/selfware/selfware.toml.d/80-wrong.toml")
    assert restart(box)


def test_a_setting_that_the_daemons_may_not_read_is_named_with_the_remedy(box: Machine) -> None:
    drop_in = "/etc/selfware/selfware.toml.d/80-closed.toml"
    box.write(drop_in, "[checkpoint]\nretention_days = 9\n")
    box.run("chmod", "600", drop_in)
    (sentence,) = refused(box)
    assert f"sudo chmod 644 {drop_in}" in sentence
    asked = box.run("selfwarectl", "config", "check", check=False)
    assert asked.returncode != 0 and f"sudo chmod 644 {drop_in}" in asked.stderr
    box.run("rm", drop_in)
    assert restart(box)
    all_is_there(box)


def test_old_checkpoints_move_to_a_store_whose_keys_are_credentials(box: Machine) -> None:
    box.copy_in(Path(sys.executable).parent / "weed", "/opt/weed")
    box.write("/srv/s3.json", json.dumps({"identities": [S3_USER]}))
    box.run("systemd-run", "--quiet", "--unit=s3", "--working-directory=/srv", "/opt/weed", *S3_SERVER)
    box.run("rm", "/etc/selfware/selfware.toml.d/60-cold.toml")
    where = f'[checkpoint.cold]\nurl = "s3://checkpoints/selfware"\nendpoint = "http://127.0.0.1:{S3_PORT}"\n'
    box.write("/etc/selfware/selfware.toml.d/60-cold.toml", where)
    (sentence,) = refused(box)
    assert "needs its keys: systemd credentials checkpoint.cold.access_key_id and" in sentence

    box.run("install", "-d", "-m", "700", "/etc/credstore")
    for name, value in (("access_key_id", S3_USER["name"]), ("secret_access_key", S3_SECRET)):
        box.run("install", "-m", "600", "/dev/stdin", f"/etc/credstore/checkpoint.cold.{name}", input=f"{value}\n")
    assert restart(box)
    work(box, 9, 2)
    box.wait_for(f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{S3_PORT}'", 30)
    box.wait_for("selfwarectl checkpoints tidy | grep -v 'the cold store waits'", 90)
    rows = [row.split() for row in box.run("selfwarectl", "checkpoints", "ls").stdout.splitlines()]
    assert "warm and cold" in " ".join(rows[1])
    assert "cold" in rows[2] and "warm" not in rows[2], rows
    box.run("selfwarectl", "checkpoints", "verify", rows[2][0])
    given = f"/run/credentials/{UNIT}/checkpoint.cold.secret_access_key"
    assert box.run("cat", given, user="selfware-agent", check=False).returncode != 0
