"""What a newcomer does: install, start, look; on a booted system, with the small embedded model as a package."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import installed
from tests.system.conftest import MachineFactory
from tests.system.machine import Machine

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def box(machine_factory: MachineFactory) -> Iterator[Machine]:
    """Installed as the contract says it: two packages, one command."""
    with tempfile.TemporaryDirectory(prefix="selfware-model-") as directory:
        build = [installed.ROOT / "packaging" / "build-deb", "model", MODEL]
        environment = {**os.environ, "SELFWARE_DEB_DIR": directory}
        subprocess.run(build, cwd=installed.ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
        (model,) = Path(directory).glob("selfware-model-*.deb")
        with machine_factory() as machine:
            machine.install(installed.deb(), model)
            machine.write("/etc/selfware/selfware.toml.d/model.toml", f'[llm]\nmodel = "{MODEL}"\n')
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "start", "selfware.target", timeout=120)
            yield machine


def test_the_system_runs_with_every_unit_active(box: Machine) -> None:
    units = [f"selfware-{name}.service" for name in installed.DAEMONS]
    for unit in ("selfware.target", *units, "selfware-tool.socket", "selfware-engine@smollm2\\x2d135m.service"):
        box.wait_for(f"systemctl is-active -q '{unit}'", 60)
    assert box.state() == "running"
    assert box.run("systemctl", "--failed", "--no-legend", "--plain").stdout == ""


def test_the_status_of_the_unit_is_the_current_sentence(box: Machine) -> None:
    box.wait_for("systemctl status selfware-agent | grep -q 'Status: \"idle: 0 tasks done'", 20)


def test_the_demo_job_runs_to_its_end_on_the_embedded_model(box: Machine) -> None:
    """The small model solves little: what counts is that each task ends and nothing is claimed that is not true."""
    done = box.run("selfwarectl", "demo", "--tasks", "2", "--attempts", "2", check=False, timeout=300)
    assert "checking every claim once more" in done.stdout + done.stderr, done.stdout + done.stderr
    assert "NOT TRUE" not in done.stdout + done.stderr
    tasks = json.loads(box.run("selfwarectl", "tasks", "ls", "--json").stdout)["tasks"]
    assert len(tasks) == 2
    assert {task["state"] for task in tasks} <= {"solved", "failed"}, tasks


def test_the_journal_tells_it_by_unit_by_task_and_with_explanations(box: Machine) -> None:
    task_id = json.loads(box.run("selfwarectl", "tasks", "ls", "--json").stdout)["tasks"][0]["task_id"]
    assert task_id in box.journal("selfware-agent")
    lines = box.run("journalctl", "-o", "json", f"SELFWARE_TASK_ID={task_id}").stdout.splitlines()
    said = {json.loads(line)["SYSLOG_IDENTIFIER"] for line in lines}
    assert {"selfware-agent", "selfware-oversightd", "selfware-tool"} <= said
    explained = box.run("journalctl", "-x", "--no-pager", "-u", "selfware-agent").stdout
    assert "-- Subject:" in explained or "░░ Subject:" in explained, explained[-3000:]


def test_stop_waits_until_everything_has_stopped_and_start_goes_on(box: Machine) -> None:
    box.run("selfwarectl", "stop", timeout=120)
    listed = "systemctl list-units --no-legend --plain 'selfware-*.service' --state=active"
    assert box.shell(listed).stdout == ""
    box.run("selfwarectl", "start", timeout=120)
    assert len(json.loads(box.run("selfwarectl", "tasks", "ls", "--json").stdout)["tasks"]) == 2


CLAIM = """
import sys
sys.path[:0] = ["/usr/lib/selfware/app", "/usr/lib/selfware/vendor"]
from pathlib import Path
from selfware_common import paths
from selfwarectl.demo import evidence
from selfwarectl.demo.demo_job import DemoTask
workspace = Path("/var/lib/selfware/workspaces/claims")
for name in ("good", "bad"):
    check = ("python3", "-m", "pytest", "-q", f"test_{name}.py")
    print(evidence.holds(paths.system(), workspace, DemoTask(name, "", (), check, (), ())))
"""


def test_a_claim_is_checked_once_more_as_root(box: Machine) -> None:
    """In a tool unit: in a namespace of its own, root may not enter the workspace."""
    box.shell(
        "cd /var/lib/selfware/workspaces && mkdir -p claims && cd claims && echo 'def test(): pass' >test_good.py"
    )
    box.shell("echo 'def test(): assert 0' >/var/lib/selfware/workspaces/claims/test_bad.py")
    assert box.run("python3", "-IS", "-c", CLAIM).stdout.split() == ["True", "False"]
    assert not box.shell("ls /var/lib/selfware/tool/effects | grep evidence || true").stdout
