from __future__ import annotations

import random
import time
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from selfware_checkpointd.manifest import Level
from selfware_checkpointd.thinning import DAY, HOUR, NANOS, Checkpoint, Plan, Policy, Ruin, plan, ruined

NOW = 1_790_000_000 // DAY * DAY * NANOS + 12 * HOUR * NANOS  # noon
ROOMY = Policy(retention_days=7, max_size_bytes=10**15)
MICRO, TASK, SESSION, SYSTEM = Level


def made(
    number: int, age_seconds: float, level: Level = SESSION, size: int = 100, session: str = "s", **more: bool
) -> Checkpoint:
    return Checkpoint(number, session, level, NOW - int(age_seconds * NANOS), size, **more)


def row(count: int, every_seconds: float, level: Level = SESSION, first: int = 1) -> list[Checkpoint]:
    """`count` of them, the newest just made."""
    return [made(first + index, (count - 1 - index) * every_seconds, level) for index in range(count)]


def gone(found: Plan) -> list[int]:
    return [one.number for one in found.delete]


def left(checkpoints: list[Checkpoint], found: Plan) -> list[Checkpoint]:
    dead = set(gone(found))
    return [one for one in checkpoints if one.number not in dead]


def ages(checkpoints: list[Checkpoint]) -> list[float]:
    return [(NOW - one.created_unix_nanos) / NANOS for one in checkpoints]


def test_of_the_last_hour_all_stay_then_one_per_ten_minutes_per_hour_and_per_day() -> None:
    checkpoints = row(20 * 24 * 120, 30.0)
    kept = ages(left(checkpoints, plan(checkpoints, NOW, replace(ROOMY, retention_days=14))))
    assert len([age for age in kept if age <= HOUR]) == 121
    assert len([age for age in kept if HOUR < age <= DAY]) in (23 * 6, 23 * 6 + 1)
    assert len([age for age in kept if DAY < age <= 7 * DAY]) in (6 * 24 - 1, 6 * 24, 6 * 24 + 1)
    assert len([age for age in kept if age > 7 * DAY]) == 7
    assert max(kept) <= 14 * DAY


def test_each_session_and_level_is_thinned_on_its_own() -> None:
    checkpoints = [
        made(1, 5_000, MICRO),
        made(2, 4_990, SESSION),
        made(3, 4_980, MICRO, session="other"),
        made(4, 4_970, MICRO),
        *(made(5 + index, 0, level, session=name) for name in ("s", "other") for index, level in enumerate(Level)),
    ]
    found = plan([replace(one, number=index) for index, one in enumerate(checkpoints, 1)], NOW, ROOMY)
    assert [(one.number, one.reason) for one in found.delete] == [
        (4, "ckpt-00000001 stands for the same 10 minutes"),
    ]


def test_what_is_too_old_goes_but_never_a_tagged_one_the_last_verified_one_or_the_newest_of_a_level() -> None:
    checkpoints = [
        made(1, 30 * DAY),
        made(2, 29 * DAY, tagged=True),
        made(3, 28 * DAY),
        made(4, 20 * DAY, TASK, verified=False),
        made(5, 10 * DAY, verified=False),
    ]
    found = plan(checkpoints, NOW, ROOMY)
    assert [(one.number, one.reason) for one in found.delete] == [(1, "older than 7 days")]
    assert found.sentence == "1 of 5 checkpoints may go (100 B), 4 stay (400 B)"


def test_the_newest_few_of_a_level_outlive_age_and_thinning() -> None:
    checkpoints = row(10, 30 * DAY)
    assert gone(plan(checkpoints, NOW, replace(ROOMY, keep={SESSION: 3}))) == list(range(1, 8))


def test_above_the_limit_the_small_levels_go_first_and_the_oldest_of_each() -> None:
    levels = [SYSTEM, SESSION, TASK, MICRO, SYSTEM, SESSION, TASK, MICRO, SYSTEM, SESSION, TASK, MICRO]
    checkpoints = [made(number, 1_000 - number, level) for number, level in enumerate(levels, 1)]
    assert gone(plan(checkpoints, NOW, replace(ROOMY, max_size_bytes=1_200))) == []
    assert gone(plan(checkpoints, NOW, replace(ROOMY, max_size_bytes=1_199))) == [4]
    found = plan(checkpoints, NOW, replace(ROOMY, max_size_bytes=650, keep={MICRO: 20}))
    assert gone(found) == [4, 8, 3, 7, 2, 6]
    assert found.delete[0].reason == "the store is above 650 B; the oldest micro one"
    assert found.kept_bytes == 600


def test_above_the_limit_what_is_old_goes_before_what_is_young() -> None:
    checkpoints = [
        made(1, 8 * DAY, SYSTEM),
        made(2, 2 * DAY, SESSION),
        made(3, 2 * DAY - 4000, MICRO),
        made(4, 2 * HOUR, SYSTEM),
        made(5, 2 * HOUR - 700, MICRO),
        made(6, 60, SYSTEM),
        made(7, 50, MICRO),
        *(made(8 + index, 0, level) for index, level in enumerate(Level)),
    ]
    found = plan(checkpoints, NOW, Policy(30, 0))
    assert gone(found) == [1, 3, 2, 5, 4, 7, 6]


def test_a_damaged_one_goes_when_it_is_old_or_in_the_way_and_a_newer_one_is_intact() -> None:
    old, young = Ruin(3, "s", NOW - 8 * DAY * NANOS), Ruin(4, "s", NOW)
    unknown = Ruin(5, "", NOW - 8 * DAY * NANOS)

    def going(verified: dict[str, int], is_full: bool) -> list[int]:
        return [one.number for one in ruined([old, young, unknown], verified, NOW, ROOMY, is_full)]

    assert going({"s": 9}, is_full=False) == [3, 5]
    assert going({"s": 9}, is_full=True) == [3, 4, 5]
    assert going({"s": 9, "t": 0}, is_full=True) == [3, 4], "it may be the last one of the other session"
    assert going({"s": 2}, is_full=True) == []
    assert going({"s": 0}, is_full=True) == []
    assert going({}, is_full=True) == []


def test_of_each_session_and_level_there_are_at_most_so_many() -> None:
    checkpoints = [*row(6, 60, MICRO), *row(3, 60, SESSION, first=7), made(10, 1, MICRO, tagged=True)]
    found = plan(checkpoints, NOW, replace(ROOMY, most=2))
    assert [(one.number, one.reason) for one in found.delete] == [
        (number, "there are 2 newer ones of its level") for number in (1, 2, 3, 4, 5, 7)
    ]
    assert gone(plan(left(checkpoints, found), NOW, replace(ROOMY, most=2))) == []
    assert gone(plan(checkpoints, NOW, replace(ROOMY, most=5, keep={MICRO: 9}))) == [1, 2]


def test_what_may_not_go_is_kept_above_the_limit_and_the_plan_says_so() -> None:
    checkpoints = [made(1, 50, tagged=True, size=3 * 2**30), made(2, 40), made(3, 30)]
    found = plan(checkpoints, NOW, replace(ROOMY, max_size_bytes=2**30))
    assert gone(found) == [2]
    assert found.sentence == (
        "1 of 3 checkpoints may go (100 B), 2 stay (3.0 GiB): 2.0 GiB above the limit of 1.0 GiB, "
        "for the rest is tagged or the last one"
    )


def test_one_that_would_free_nothing_is_not_deleted_for_the_limit() -> None:
    checkpoints = [made(1, 50, MICRO, size=0), made(2, 40, MICRO), made(3, 30, MICRO)]
    assert gone(plan(checkpoints, NOW, replace(ROOMY, max_size_bytes=150))) == [2]


def test_an_empty_store_and_a_clock_that_went_back_take_nothing() -> None:
    assert plan([], NOW, ROOMY).sentence == "no checkpoint may go, 0 stay (0 B)"
    assert gone(plan(row(50, 1.0), NOW - 400 * DAY * NANOS, ROOMY)) == []


@st.composite
def stores(draw: st.DrawFn) -> list[Checkpoint]:
    """Any store; the clock may have jumped while it was made."""
    found = []
    for number in range(1, draw(st.integers(0, 40)) + 1):
        found.append(
            Checkpoint(
                number,
                draw(st.sampled_from(["a", "b"])),
                draw(st.sampled_from(list(Level))),
                NOW - draw(st.one_of(st.integers(-HOUR, 2 * HOUR), st.integers(0, 40 * DAY))) * NANOS,
                draw(st.integers(0, 1_000)),
                tagged=draw(st.sampled_from([False, False, False, True])),
                verified=draw(st.booleans()),
            )
        )
    return draw(st.permutations(found))


policies = st.builds(
    Policy,
    retention_days=st.sampled_from([0.5, 1, 7, 30]),
    max_size_bytes=st.integers(0, 20_000),
    keep=st.dictionaries(st.sampled_from(list(Level)), st.integers(0, 5)),
    most=st.sampled_from([0, 0, 1, 3]),
)


def untouchable(checkpoints: list[Checkpoint]) -> set[int]:
    """Said once more, in another way than the code does it."""
    found = {one.number for one in checkpoints if one.tagged}
    for one in checkpoints:
        if not any(
            o.session_id == one.session_id and o.level == one.level and o.number > one.number for o in checkpoints
        ):
            found.add(one.number)
        later = [o for o in checkpoints if o.session_id == one.session_id and o.verified and o.number > one.number]
        if one.verified and not later:
            found.add(one.number)
    return found


@settings(deadline=None)
@given(stores(), policies)
def test_what_must_stay_stays(checkpoints: list[Checkpoint], policy: Policy) -> None:
    dead = gone(plan(checkpoints, NOW, policy))
    assert len(dead) == len(set(dead))
    assert not set(dead) & untouchable(checkpoints)


@settings(deadline=None)
@given(stores(), policies)
def test_the_same_question_again_takes_nothing_more(checkpoints: list[Checkpoint], policy: Policy) -> None:
    rest = left(checkpoints, plan(checkpoints, NOW, policy))
    assert gone(plan(rest, NOW, policy)) == []


@settings(deadline=None)
@given(stores(), policies, st.integers(0, 40 * DAY))
def test_what_may_go_now_may_also_go_later(checkpoints: list[Checkpoint], policy: Policy, seconds: int) -> None:
    """Of age and thinning; the limit takes less once they took more."""
    policy = replace(policy, max_size_bytes=10**9)
    later = gone(plan(checkpoints, NOW + seconds * NANOS, policy))
    assert set(gone(plan(checkpoints, NOW, policy))) <= set(later)


@settings(deadline=None)
@given(stores(), policies)
def test_the_limit_is_kept_where_it_can_be_and_nothing_goes_for_it_without_need(
    checkpoints: list[Checkpoint], policy: Policy
) -> None:
    found = plan(checkpoints, NOW, policy)
    rest = left(checkpoints, found)
    size = {one.number: one.stored_bytes for one in checkpoints}
    assert found.kept_bytes == sum(one.stored_bytes for one in rest)
    least = sum(size[number] for number in untouchable(checkpoints))
    assert found.kept_bytes <= max(policy.max_size_bytes, least)
    assert ("above the limit" in found.sentence) == (found.kept_bytes > policy.max_size_bytes)
    squeezed = [one.number for one in found.delete if one.reason.startswith("the store")]
    if squeezed:
        assert found.kept_bytes + size[squeezed[-1]] > policy.max_size_bytes


@settings(deadline=None)
@given(stores(), policies, st.integers(0, 40))
def test_a_plan_that_was_carried_out_in_part_can_be_made_anew(
    checkpoints: list[Checkpoint], policy: Policy, done: int
) -> None:
    """A kill in the middle of deleting costs neither what must stay nor the limit."""
    whole = gone(plan(checkpoints, NOW, policy))
    rest = [one for one in checkpoints if one.number not in whole[:done]]
    again = plan(rest, NOW, policy)
    must = untouchable(checkpoints)
    assert must == untouchable(rest)
    assert not must & set(gone(again))
    assert again.kept_bytes <= max(policy.max_size_bytes, sum(o.stored_bytes for o in rest if o.number in must))


def test_thirty_thousand_checkpoints_are_decided_in_a_moment() -> None:
    """A wide bound for a busy machine; what it must not be is quadratic."""
    rng = random.Random(1)
    checkpoints = [
        made(number, rng.uniform(0, 30 * DAY), rng.choice(list(Level)), rng.randrange(9_999), f"s{rng.randrange(9)}")
        for number in range(1, 30_001)
    ]
    began = time.process_time()
    found = plan(checkpoints, NOW, Policy(30, 10_000_000))
    assert time.process_time() - began < 2.0
    assert found.kept_bytes <= 10_000_000
