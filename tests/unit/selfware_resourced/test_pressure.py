"""Pressure rises at once, falls late, never flaps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from selfware_common.settings import Settings
from selfware_resourced.config import from_settings
from selfware_resourced.disk import Disk, read_disk
from selfware_resourced.gpu import Gpu, Gpus
from selfware_resourced.memory import Cpu, Memory, read_stalls
from selfware_resourced.pressure import Level, Limits, disk_level, next_level, steady_percent
from selfware_resourced.readings import picture

LIMITS = Limits(warning=0.70, critical=0.85, emergency=0.95)
GIB = 2**30


def follow(values: list[float], limits: Limits = LIMITS) -> list[Level]:
    level, seen = Level.NONE, []
    for value in values:
        level = next_level(level, value, limits)
        seen.append(level)
    return seen


def test_a_level_rises_at_once_to_the_highest_line_reached() -> None:
    assert follow([0.1, 0.96]) == [Level.NONE, Level.EMERGENCY]


def test_a_level_is_left_only_below_its_release_line() -> None:
    assert follow([0.86, 0.81, 0.79, 0.66, 0.64]) == [
        Level.CRITICAL,
        Level.CRITICAL,
        Level.WARNING,
        Level.WARNING,
        Level.NONE,
    ]


def test_a_fall_may_pass_several_levels() -> None:
    assert follow([0.99, 0.10]) == [Level.EMERGENCY, Level.NONE]


@given(st.sampled_from([0.70, 0.85, 0.95]), st.lists(st.floats(-0.024, 0.024), min_size=2, max_size=50))
def test_noise_narrower_than_the_release_changes_a_level_at_most_once(line: float, noise: list[float]) -> None:
    seen = follow([line + one for one in noise])
    assert sum(before != after for before, after in pairwise(seen)) <= 1


@given(st.sampled_from(list(Level)), st.floats(0, 1), st.floats(0, 1))
def test_more_use_never_means_less_pressure(now: Level, one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert next_level(now, low, LIMITS) <= next_level(now, high, LIMITS)


def test_a_full_percentage_of_a_huge_disk_is_only_a_warning() -> None:
    assert disk_level(Level.NONE, 0.90, 500 * GIB, LIMITS, 20 * GIB) is Level.WARNING
    assert disk_level(Level.NONE, 0.90, 10 * GIB, LIMITS, 20 * GIB) is Level.CRITICAL
    assert disk_level(Level.CRITICAL, 0.90, int(20.5 * GIB), LIMITS, 20 * GIB) is Level.CRITICAL


def test_a_shown_percentage_stays_until_the_value_moved_three_points() -> None:
    assert [steady_percent(-1, 0.414), steady_percent(41, 0.435), steady_percent(41, 0.445)] == [41, 41, 44]


def test_absent_pressure_information_is_normal(tmp_path: Path) -> None:
    assert read_stalls(tmp_path / "memory") == (-1.0, -1.0)
    (tmp_path / "memory").write_text("some avg10=12.50 avg60=1 total=9\nfull avg10=3.00 avg60=0 total=1\n")
    assert read_stalls(tmp_path / "memory") == (12.5, 3.0)


def test_a_state_directory_that_does_not_exist_yet_is_measured_at_its_parent(tmp_path: Path) -> None:
    disk = read_disk(tmp_path / "not" / "there")
    assert disk.path == tmp_path
    assert 0 <= disk.used_ratio <= 1
    assert disk.total_bytes >= disk.free_bytes


CONFIG = from_settings(Settings())
CALM = Memory(100 * GIB, 60 * GIB, -1.0, -1.0)
CPU = Cpu(2, 0.5, -1.0)
DISK = Disk(Path("/state"), 100 * GIB, 78 * GIB, 0.22, 0.01)
NO_GPU = Gpus((), "no GPU")


def test_the_sentence_of_a_calm_machine() -> None:
    now = picture(None, CALM, CPU, DISK, NO_GPU, CONFIG)
    assert now.sentence == "memory 40% used, disk 22% used, no GPU: no pressure"


def test_the_sentence_names_what_the_pressure_comes_from() -> None:
    tight = Memory(100 * GIB, 10 * GIB, 25.0, 0.0)
    now = picture(None, tight, CPU, DISK, NO_GPU, CONFIG)
    assert now.sentence.endswith(": critical pressure from memory, tasks that wait for memory")


def test_a_hot_gpu_is_critical_and_stays_so_until_it_cooled() -> None:
    def gpu(celsius: float) -> Gpus:
        return Gpus((Gpu(0, "Fake GPU", 24 * GIB, GIB, 0.5, celsius),), "")

    hot = picture(None, CALM, CPU, DISK, gpu(86), CONFIG)
    assert hot.levels.highest is Level.CRITICAL
    assert hot.sentence == "memory 40% used, disk 22% used, Fake GPU: critical pressure from heat of GPU 0"
    assert picture(hot, CALM, CPU, DISK, gpu(83), CONFIG).levels.highest is Level.CRITICAL
    assert picture(hot, CALM, CPU, DISK, gpu(60), CONFIG).levels.highest is Level.NONE


def test_a_gpu_that_vanishes_takes_its_pressure_with_it() -> None:
    full = Gpus((Gpu(0, "Fake GPU", 100, 99, 0.5, 50),), "")
    before = picture(None, CALM, CPU, DISK, full, CONFIG)
    assert before.levels.highest is Level.CRITICAL
    assert picture(before, CALM, CPU, DISK, NO_GPU, CONFIG).levels.highest is Level.NONE


def test_the_wire_uses_the_numbers_of_the_protocol() -> None:
    message = picture(None, CALM, CPU, DISK, NO_GPU, CONFIG).message(7)
    assert (message.pressure, message.memory.pressure, message.time_unix_nanos) == (1, 1, 7)
    assert message.gpu_note == "no GPU"
    assert message.memory.stall_some_avg10 == -1
