"""The generator as systemd runs it: a process, three directories, and whatever stands in /etc/selfware."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfware_generator.__main__ import say

FALLBACK = ["selfware.target.d/50-selfware-toml.conf"]


class Machine:
    """An /etc/selfware of its own and the three directories that systemd gives."""

    def __init__(self, root: Path) -> None:
        self.config = root / "etc"
        self.config.mkdir()
        self.directories = [root / "normal", root / "early", root / "late"]
        for directory in self.directories:
            directory.mkdir()

    def generate(self, text: str | None = None) -> subprocess.CompletedProcess[str]:
        if text is not None:
            (self.config / "selfware.toml").write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "selfware_generator", *map(str, self.directories)],
            env=os.environ | {"SELFWARE_CONFIG_DIR": str(self.config)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def files(self) -> list[str]:
        normal = self.directories[0]
        return sorted(str(path.relative_to(normal)) for path in normal.rglob("*") if path.is_file())

    def read(self, unit: str) -> str:
        return (self.directories[0] / f"{unit}.d" / "50-selfware-toml.conf").read_text(encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_file_the_defaults_are_written_in_silence(machine: Machine) -> None:
    done = machine.generate()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.files() == [
        "selfware-agent.service.d/50-selfware-toml.conf",
        "selfware-checkpointd.service.d/50-selfware-toml.conf",
        "selfware-engine@.service.d/50-selfware-toml.conf",
        "selfware-inferenced.service.d/50-selfware-toml.conf",
        "selfware-oversightd.service.d/50-selfware-toml.conf",
        "selfware-resourced.service.d/50-selfware-toml.conf",
        "selfware.target.d/50-selfware-toml.conf",
    ]


def test_nothing_is_written_outside_the_first_directory(machine: Machine, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if machine.directories[0] not in (path, *path.parents)}
    machine.generate('[llm]\nmodel = "../../../../etc/evil"\n')
    after = {path for path in tmp_path.rglob("*") if machine.directories[0] not in (path, *path.parents)}
    assert after - before == {machine.config / "selfware.toml"}


def test_the_file_and_its_drop_ins_decide(machine: Machine) -> None:
    (machine.config / "selfware.toml.d").mkdir()
    (machine.config / "selfware.toml.d" / "10-mine.toml").write_text("[supervision]\nmax_restarts = 9\n")
    assert machine.generate('[supervision]\nstrategy = "OneForAll"\nmax_restarts = 3\n').stderr == ""
    agent = machine.read("selfware-agent.service")
    assert "\nStartLimitBurst=9\n" in agent
    assert "\nPartOf=selfware-checkpointd.service selfware-resourced.service " in agent
    assert str(machine.config / "selfware.toml") in agent


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[supervision\n", "not valid TOML"),
        ("[supervision]\nmax_restart = 3\n", "unknown key 'supervision.max_restart'; did you mean"),
        ('[supervision]\nstrategy = "AllForOne"\n', "must be one of 'OneForOne'"),
        ("[supervision]\nmax_seconds = inf\n", "'supervision.max_seconds' is inf, but must be a finite number"),
        ('[supervision]\nmax_restarts = "5\\n[Service]\\nExecStart=/bin/sh"\n', "must be a whole number"),
        ('[supervision.backoff_strategy]\ntype = "Fixed\\nExecStart=/bin/sh"\n', "must be one of 'Fixed'"),
        ("x = " + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_broken_file_is_one_sentence_and_the_machine_boots_with_the_default_engine(
    machine: Machine, text: str, problem: str
) -> None:
    done = machine.generate(text)
    assert done.returncode == 0
    assert done.stderr.startswith("<3>selfware-generator: Configuration ")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert machine.files() == FALLBACK
    assert r"Wants=selfware-engine@qwen2.5\x2dcoder\x2d0.5b.service" in machine.read("selfware.target")


def test_a_file_that_cannot_be_read_is_a_broken_one(machine: Machine) -> None:
    (machine.config / "selfware.toml").mkdir()
    done = machine.generate()
    assert done.returncode == 0
    assert "cannot be read" in done.stderr
    assert machine.files() == FALLBACK


def test_a_wrong_command_line_is_refused(machine: Machine) -> None:
    machine.directories.pop()
    done = machine.generate()
    assert done.returncode == 2
    assert "usage: selfware-generator NORMAL-DIR EARLY-DIR LATE-DIR" in done.stderr


def test_the_kernel_log_gets_one_line_with_a_priority(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "kmsg"
    log.touch()
    say("two\nlines", log)
    assert log.read_text() == "<3>selfware-generator: two lines\n"
    say("x" * 5000, log)
    assert log.stat().st_size < 1024
    assert capfd.readouterr().err == ""


def test_without_a_kernel_log_stderr_gets_the_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "nobody-reads")
    for log in (tmp_path / "missing", tmp_path / "nobody-reads", None):
        say("broken", log)
        assert capfd.readouterr().err == "<3>selfware-generator: broken\n"
