"""When checkpoints are due: seconds are numbers here, so a day of schedule takes no time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfware_agent.checkpoint_schedule import (
    LONGEST_RETRY_SECONDS,
    SAVING_SHARE,
    TOGETHER_SHARE,
    Facts,
    Level,
    Rules,
    Schedule,
)
from selfware_common.settings import Checkpoint, CheckpointLevel, CheckpointLevels

DEFAULTS = Checkpoint()
RULES = Rules.of(DEFAULTS)
MICRO, TASK, SESSION, SYSTEM = Level
FULL = "disk 96% used"


def schedule(wanted: Checkpoint = DEFAULTS, at: float = 0.0) -> Schedule:
    return Schedule.begin(Rules.of(wanted), at)


def walk(
    plan: Schedule,
    until: float,
    step: float = 1.0,
    facts: Facts | None = None,
    per_step: float = 1.0,
    took: float = 0.0,
) -> list[tuple[float, Level]]:
    """Poll every `step` seconds while `per_step` events come each time; what was saved when."""
    found, now, done = [], 0.0, 0.0
    while now < until:
        now += step
        done += per_step
        seen = replace(facts or Facts(0), sequence=int(done))
        if level := plan.due(now, seen):
            found.append((now, level))
            plan = plan.saved(level, now, now, seen)
    return found


def times(found: list[tuple[float, Level]], least: Level) -> list[float]:
    return [now for now, level in found if level >= least]


def test_levels_come_at_their_intervals_and_the_larger_one_covers_the_smaller() -> None:
    found = walk(schedule(), 900.0, per_step=0.1)
    assert found == [(now, _expected(now)) for now in range(30, 901, 30)]


def _expected(now: int) -> Level:
    if now % 900 == 0:
        return SYSTEM
    return SESSION if now % 300 == 0 else MICRO


def test_nothing_is_due_while_nothing_changed_and_a_change_is_saved_at_once_after_a_quiet_time() -> None:
    plan = schedule()
    assert plan.due(10_000.0, Facts(0)) is None
    assert plan.due_in_seconds(10_000.0, Facts(0)) == float("inf")
    assert plan.due(10_000.0, Facts(1)) is SYSTEM


def test_a_checkpoint_that_holds_everything_is_not_repeated() -> None:
    facts = Facts(5)
    plan = schedule().saved(SYSTEM, 900.0, 900.01, facts)
    assert plan.due(5_000.0, facts) is None
    assert plan.due_on_stop(facts) is None
    assert plan.due_on_stop(Facts(6)) is SESSION


def test_the_end_of_a_task_does_not_wait_and_a_retried_one_counts_again() -> None:
    plan = schedule()
    assert plan.due(0.5, Facts(9, ended_tasks=1)) is TASK
    plan = plan.saved(TASK, 0.5, 0.51, Facts(9, ended_tasks=1))
    assert plan.due(2.0, Facts(10, ended_tasks=1)) is None
    assert plan.due(2.0, Facts(10, ended_tasks=2)) is TASK


def test_a_task_checkpoint_does_not_stand_for_the_session_one() -> None:
    facts = Facts(9, ended_tasks=1)
    plan = schedule().saved(TASK, 290.0, 290.0, facts)
    assert plan.due(299.0, facts) is None
    assert plan.due(300.0, facts) is SESSION


def test_a_running_reply_alone_makes_only_a_micro_checkpoint_due() -> None:
    assert schedule().due(1_000.0, Facts(0, streamed_tokens=7)) is MICRO


def test_many_changes_make_a_session_checkpoint_due_early_but_never_before_the_shortest_interval() -> None:
    many = Facts(DEFAULTS.changes_threshold)
    plan = schedule()
    assert plan.due(29.9, many) is None
    assert plan.due(30.0, many) is SESSION
    plan = plan.saved(SESSION, 30.0, 30.0, many)
    assert plan.due(59.9, Facts(2 * DEFAULTS.changes_threshold)) is None
    assert plan.due(60.0, Facts(2 * DEFAULTS.changes_threshold)) is SESSION
    assert plan.due(60.0, Facts(2 * DEFAULTS.changes_threshold - 1)) is MICRO


def test_memory_pressure_halves_the_intervals_down_to_the_shortest() -> None:
    short = Facts(0, memory_short=True)
    rules = Rules.of(DEFAULTS)
    assert [rules.interval(level, short) for level in (MICRO, SESSION, SYSTEM)] == [30.0, 150.0, 450.0]
    found = walk(schedule(), 900.0, facts=short, per_step=0.1)
    assert times(found, SESSION) == [150.0, 300.0, 450.0, 600.0, 750.0, 900.0]


def test_without_adaptive_memory_pressure_changes_nothing() -> None:
    short = Facts(0, memory_short=True)
    assert walk(schedule(replace(DEFAULTS, adaptive=False)), 2_000, facts=short) == walk(schedule(), 2_000)


def test_a_save_that_took_long_makes_the_next_ones_rarer() -> None:
    plan = schedule().saved(SESSION, 300.0, 310.0, Facts(1))
    assert plan.due(499.9, Facts(2)) is None
    assert plan.due(500.0, Facts(2)) is MICRO
    assert plan.due_in_seconds(310.0, Facts(2)) == 190.0


def test_a_full_disk_pauses_session_and_system_but_neither_the_small_ones_nor_the_last() -> None:
    full = Facts(7, disk_full=FULL)
    plan = schedule()
    assert plan.due(5_000.0, full) is MICRO
    assert plan.due(5_000.0, replace(full, ended_tasks=1)) is TASK
    assert plan.due_on_stop(full) is SESSION
    assert plan.due(5_000.0, Facts(7)) is SYSTEM
    assert plan.pause_in_words(full) == (
        "session and system checkpoints pause (disk 96% used); smaller ones and the last one on stop are still made"
    )
    assert plan.pause_in_words(Facts(7)) == ""


def test_a_failed_save_is_tried_again_with_growing_pauses() -> None:
    plan, now, tries, facts = schedule(), 300.0, [], Facts(5)
    for _ in range(9):
        now += plan.due_in_seconds(now, facts)
        assert plan.due(now, facts) is not None
        tries.append(now - 300.0)
        plan = plan.failed(now, now)
    assert tries == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0]
    plan = plan.saved(SYSTEM, now, now, facts)
    assert plan.failures == 0
    assert plan.due(now + 30.0, Facts(6)) is MICRO


def test_a_store_that_hangs_is_asked_again_after_the_longest_interval_at_the_latest() -> None:
    plan = schedule().failed(300.0, 330.0)
    assert plan.due_in_seconds(330.0, Facts(1)) == DEFAULTS.max_interval_seconds - 30.0


def test_a_switched_off_level_is_never_due_and_nothing_is_with_checkpoints_off() -> None:
    off = CheckpointLevel(enabled=False)
    plan = schedule(replace(DEFAULTS, levels=CheckpointLevels(session=off, system=off)))
    assert plan.due(5_000.0, Facts(500)) is MICRO
    assert plan.due_on_stop(Facts(500)) is None
    assert plan.pause_in_words(Facts(1, disk_full=FULL)) == ""
    none = schedule(replace(DEFAULTS, enabled=False))
    assert none.due(5_000.0, Facts(500, ended_tasks=3)) is None
    assert none.due_in_seconds(0.0, Facts(500)) == float("inf")


def test_a_level_that_the_caller_cannot_fill_is_never_due() -> None:
    plan = Schedule.begin(Rules.of(DEFAULTS, (MICRO, SESSION)), 0.0)
    assert plan.due(5_000.0, Facts(5, ended_tasks=1)) is SESSION


def test_intervals_stay_within_their_bounds() -> None:
    odd = CheckpointLevels(micro=CheckpointLevel(interval_seconds=1.0), session=CheckpointLevel(interval_seconds=9_000))
    rules = Rules.of(replace(DEFAULTS, interval_seconds=9_000, levels=odd))
    assert (rules.intervals[MICRO], rules.intervals[SESSION], rules.intervals[SYSTEM]) == (30.0, 300.0, 900.0)
    assert Rules.of(replace(DEFAULTS, interval_seconds=60.0)).intervals[SESSION] == 60.0


def test_after_a_recovery_far_behind_the_journal_the_session_is_saved_soon() -> None:
    plan = Schedule.begin(RULES, 50.0, sequence=10)
    assert plan.due(80.0, Facts(10 + DEFAULTS.changes_threshold)) is SESSION
    assert plan.due(80.0, Facts(11)) is MICRO


@pytest.mark.parametrize("start", [0.0, 12_345.678, 9e6])
@settings(deadline=None)
@given(late=st.lists(st.floats(0.0, 3.0), min_size=40, max_size=40), took=st.floats(0.0, 0.5))
def test_the_cadence_stays_within_ten_percent_at_full_load_and_lateness_does_not_add_up(
    start: float, late: list[float], took: float
) -> None:
    """Every look comes late by up to 10 % of the micro interval, every save takes time; the plan does not move."""
    plan, now, saves = schedule(at=start), start, 0
    for sequence in range(1, 121):
        now += plan.due_in_seconds(now, Facts(sequence)) + late[sequence % 40]
        level = plan.due(now, Facts(sequence))
        assert level is not None
        plan, saves = plan.saved(level, now, now + took, Facts(sequence)), saves + 1
        now += took
        assert now - (start + 30.0 * saves) <= 3.0 + 0.5 + 1e-3


@settings(deadline=None)
@given(data=st.data())
def test_whatever_happens_saving_stays_cheap_rare_enough_and_honest(data: st.DataObject) -> None:
    chosen = replace(
        DEFAULTS,
        min_interval_seconds=data.draw(st.sampled_from([5.0, 30.0, 60.0])),
        changes_threshold=data.draw(st.sampled_from([1, 10, 100])),
    )
    plan, now, sequence, ended = schedule(chosen), 0.0, 0, 0
    begun: list[tuple[float, Level]] = []
    durations: list[float] = []
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.floats(0.01, 120.0))
        sequence += data.draw(st.integers(0, 150))
        ended += data.draw(st.sampled_from([0, 0, 0, 1]))
        full = data.draw(st.sampled_from(["", "", FULL]))
        facts = Facts(sequence, ended, memory_short=data.draw(st.booleans()), disk_full=full)
        level = plan.due(now, facts)
        assert (level is not None) == (plan.due_in_seconds(now, facts) == 0.0)
        if level is None:
            continue
        assert not (full and level >= SESSION)
        assert sequence > 0 or ended > 0
        if begun:
            assert sum(durations) <= SAVING_SHARE * (now - begun[0][0]) + 1e-6
        larger = [when for when, other in begun if other >= level]
        if level is not TASK and larger:
            assert now - larger[-1] >= (1 - TOGETHER_SHARE) * chosen.min_interval_seconds - 1e-6
        took = data.draw(st.sampled_from([0.0, 0.05, 1.0, 20.0]))
        begun.append((now, level))
        durations.append(took)
        plan = plan.saved(level, now, now + took, facts)
        assert plan.due(now + took, facts) is None
        now += took


@settings(deadline=None)
@given(st.floats(0.0, 60.0), st.integers(0, 2_000))
def test_failing_for_ever_is_never_a_tight_loop(took: float, failures: int) -> None:
    plan = replace(schedule(), failures=failures).failed(1_000.0, 1_000.0 + took)
    wait = plan.due_in_seconds(1_000.0 + took, Facts(1))
    assert 1.0 <= wait <= max(LONGEST_RETRY_SECONDS, DEFAULTS.max_interval_seconds)
