"""The delays before a restart: the pure function, and packaging/selfware-backoff as systemd runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfware_generator.backoff import Delays

PROGRAM = Path(__file__).resolve().parents[3] / "packaging" / "selfware-backoff"
TYPES = ("Fixed", "Linear", "Exponential")


class Unit:
    """What systemd would be to the program: its state, its environment, and a `sleep` that only notes how long."""

    def __init__(self, directory: Path, base: str = "1", longest: str = "60", forget: str = "600") -> None:
        self.state = directory / "backoff"
        self.slept = directory / "slept"
        self.times = ("--base", base, "--max", longest)
        self.kept = ("--forget", forget, "--state", str(self.state))
        commands = directory / "commands"
        commands.mkdir()
        (commands / "sleep").write_text(f'#!/bin/sh\necho "$1" >{self.slept}\n')
        (commands / "sleep").chmod(0o755)
        self.environment = {"PATH": f"{commands}:{os.environ['PATH']}"}

    def run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [PROGRAM, *arguments], env=self.environment | environment, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        self.status = done.returncode
        return done.stdout

    def start(self, kind: str = "Exponential", **environment: str) -> float:
        """Seconds that the start waited."""
        self.slept.unlink(missing_ok=True)
        self.said = self.run("--type", kind, *self.times, *self.kept, **environment)
        assert self.status == 0
        return float(self.slept.read_text()) if self.slept.exists() else 0

    def fail(self, result: str = "signal") -> None:
        assert self.run("--failed", *self.kept, SERVICE_RESULT=result) == ""
        assert self.status == 0

    def failed(self, times: int, seconds_ago: float = 0) -> None:
        self.state.write_text(f"{times} {ticks() - round(seconds_ago * 100)}\n")


def ticks() -> int:
    with open("/proc/uptime", encoding="ascii") as stream:
        return round(float(stream.read().split()[0]) * 100)


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Fixed", [0, 0, 2, 2, 2, 2, 2, 2]),
        ("Linear", [0, 0, 2, 4, 6, 8, 10, 10]),
        ("Exponential", [0, 0, 2, 4, 8, 10, 10, 10]),
    ],
)
def test_the_first_restart_is_immediate_then_base_then_it_grows_up_to_the_maximum(
    kind: str, expected: list[int]
) -> None:
    delays = Delays(kind, 2000, 10_000)
    assert [delays.after(failures) // 1000 for failures in range(8)] == expected


@pytest.mark.parametrize("kind", TYPES)
def test_no_number_of_failures_exceeds_the_maximum(kind: str) -> None:
    delays = Delays(kind, 7000, 5000)
    assert {delays.after(failures) for failures in (2, 3, 1000, 10**9)} == {5000}
    assert delays.longest_ms == 5000


def test_it_forgets_after_ten_times_the_longest_delay_and_never_before_ten_minutes() -> None:
    assert Delays("Exponential", 1000, 5000).forget_ms == 600_000
    assert Delays("Exponential", 1000, 300_000).forget_ms == 3_000_000


@pytest.mark.parametrize("kind", TYPES)
def test_the_program_and_the_function_compute_the_same_delays(tmp_path: Path, kind: str) -> None:
    unit = Unit(tmp_path, base="1.25", longest="37.025")
    delays = Delays(kind, 1250, 37_025)
    for failures in (1, 2, 3, 4, 5, 6, 7, 20, 40, 999):
        unit.failed(failures)
        assert delays.after(failures) / 1000 - 1 < unit.start(kind) + 0.0001, (kind, failures)
        assert unit.start(kind) <= delays.after(failures) / 1000


def test_a_start_that_nothing_went_before_is_immediate_and_silent(unit: Unit) -> None:
    assert (unit.start(), unit.said) == (0, "")


def test_a_healthy_daemon_that_is_killed_comes_back_at_once_and_the_next_time_waits(unit: Unit) -> None:
    unit.start()
    unit.fail()
    assert unit.start() == 0
    unit.fail("watchdog")
    assert 0.5 < unit.start() <= 1
    unit.fail("exit-code")
    assert 1.5 < unit.start() <= 2


def test_the_journal_gets_one_sentence_with_a_priority(unit: Unit) -> None:
    unit.failed(3)
    slept = unit.start()
    assert unit.said == f"<5>restart 3 within 600 s: waiting {slept:g} s\n"


def test_a_restart_that_somebody_asked_for_is_not_counted(unit: Unit) -> None:
    for _ in range(5):
        unit.fail("success")
        assert unit.start() == 0
    assert not unit.state.exists()


def test_time_that_passed_since_the_failure_is_not_waited_again(unit: Unit) -> None:
    unit.failed(5, seconds_ago=6)
    assert 1 < unit.start() <= 2
    unit.failed(5, seconds_ago=9)
    assert unit.start() == 0


def test_a_quiet_period_is_a_fresh_beginning(unit: Unit, tmp_path: Path) -> None:
    seconds = ticks() / 100
    if seconds < 601:
        unit.kept = ("--forget", "2", *unit.kept[2:])
    unit.failed(9, seconds_ago=min(seconds, 601))
    unit.fail()
    assert unit.state.read_text().split()[0] == "1"
    assert unit.start() == 0


def test_a_machine_that_booted_anew_knows_no_failures(unit: Unit) -> None:
    unit.failed(9, seconds_ago=-3600)
    assert unit.start() == 0


@pytest.mark.parametrize(
    "damage", ["", "x", "9", "-1 5", "09 5", "5 x", "99999 1", "3 99999999999999999999", "$(id) `id`", "\0\0\0"]
)
def test_a_damaged_state_counts_as_no_failure(unit: Unit, damage: str) -> None:
    unit.state.write_text(damage)
    assert unit.start() == 0
    unit.fail()
    assert unit.state.read_text().split()[0] == "1"


def test_a_state_that_cannot_be_written_is_said_and_stops_nothing(unit: Unit) -> None:
    unit.kept = (*unit.kept[:3], "/nowhere/backoff")
    said = unit.run("--failed", *unit.kept, SERVICE_RESULT="signal")
    assert unit.status == 0
    assert said == "<4>failure not counted, the next start will not wait: /nowhere/backoff cannot be written\n"
    assert unit.start() == 0


def test_the_runtime_directory_that_systemd_gives_wins_over_the_state_option(unit: Unit, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    unit.run("--failed", *unit.kept, SERVICE_RESULT="signal", RUNTIME_DIRECTORY=f"{given}:/other")
    assert (given / "backoff").exists()
    assert not unit.state.exists()


def test_the_count_stops_before_it_gets_too_long(unit: Unit) -> None:
    unit.failed(999)
    unit.fail()
    assert unit.state.read_text().split()[0] == "999"


@pytest.mark.parametrize("number", ["", "x", "1e3", "-1", ".5", "5.", "1.2.3", "08", "1;id", "$(id)", "99999999999999"])
def test_what_is_no_number_of_seconds_is_refused_with_a_sentence(unit: Unit, number: str) -> None:
    said = unit.run("--type", "Fixed", "--base", number, "--max", "1", *unit.kept)
    assert unit.status == 64
    assert said == f"<3>selfware-backoff: '{number}' is not a number of seconds\n"


def test_an_unknown_type_or_option_is_refused_with_a_sentence(unit: Unit) -> None:
    assert "must be Fixed, Linear or Exponential" in unit.run("--type", "Random", *unit.times, *unit.kept)
    assert unit.status == 64
    assert "unknown option --tipe" in unit.run("--tipe", "Fixed", *unit.times, *unit.kept)
    assert unit.status == 64


def test_it_really_sleeps_and_ends_when_systemd_ends_it(tmp_path: Path) -> None:
    unit = Unit(tmp_path, base="30")
    unit.failed(2)
    arguments: list[str | Path] = [PROGRAM, "--type", "Fixed", *unit.times, *unit.kept]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "waiting" in process.stdout.readline()
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == -15


def test_python_is_not_needed(tmp_path: Path) -> None:
    assert PROGRAM.read_text().startswith("#!/bin/sh\n")
    assert Path(sys.executable).name not in PROGRAM.read_text()
