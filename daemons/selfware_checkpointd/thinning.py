"""Which checkpoints may go, so that a week of work stays findable without filling the disk. A decision only: no files,
no clock; deleting is the store's.

Old states are worth less the older they are, hence per session and level:

    age        up to an hour    up to a day           up to 7 days      up to retention_days    older
    kept       all              one per 10 minutes    one per hour      one per day             none

then, if there is a limit for their number, the oldest of each session and level that are too many; and, if the store is
still above its limit, those older than a week, then than a day, then than an hour, then the others; within each the
micro checkpoints before those of tasks, sessions and the system; of a level the oldest first.

What always stays, whatever the age and the limit: a tagged checkpoint, the newest verified one of each session, and the
newest of each session and level (so that numbers never repeat, and recovery has where to begin). The newest few of a
level stay against age and thinning, but not against the limit.

One whose record is damaged (``ruined``) can never be restored: it goes once it is too old, or the first of all when the
store is above its limit, if a newer one of its session was verified.

Of several in one stretch of time the first stays. Stretches begin at full hours and days and the longer ones consist of
whole shorter ones, so what stays now is also what stands for its stretch later: the same question again takes nothing
more away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfware_checkpointd.manifest import Level, checkpoint_id

NANOS = 1_000_000_000
HOUR, DAY = 3600, 86_400
STRETCHES = ((HOUR, 0), (DAY, 600), (7 * DAY, HOUR))
"""(up to this age, one per so many) in seconds; 0: all, for what happened in the last hour is what people undo. One per
DAY past the last. The grid of the design: about 170 of a level in a week, whatever the interval they are made at."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the decision needs to know of one."""

    number: int
    session_id: str
    level: Level
    created_unix_nanos: int
    stored_bytes: int  # what deleting it would free
    tagged: bool = False  # a person wants to keep it
    verified: bool = True  # found intact when it was last read


@dataclass(frozen=True)
class Policy:
    """[checkpoint] retention_days, max_size_bytes, keep_per_level and most_per_level."""

    retention_days: float
    max_size_bytes: int
    keep: Mapping[Level, int] = field(default_factory=dict)  # newest ones that neither age nor thinning takes
    most: int = 0  # of each session and level; 0: as many as thinning leaves


@dataclass(frozen=True, slots=True)
class Doomed:
    """One that may go, and why: half a sentence."""

    number: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """What may go, in this order; any part of it may be carried out. `sentence` tells a person, also what could not
    be reached."""

    delete: tuple[Doomed, ...]
    kept_bytes: int
    sentence: str


def plan(checkpoints: Sequence[Checkpoint], now_unix_nanos: int, policy: Policy) -> Plan:
    """Decide about all checkpoints of the store at once; in the order of n log n steps for n of them."""
    ordered = sorted(checkpoints, key=lambda one: one.number)
    sacred, recent = _sacred(ordered), _recent(ordered, policy.keep)
    faded = _faded(ordered, now_unix_nanos, policy, sacred | recent)
    left = [one for one in ordered if one.number not in faded]
    if policy.most:
        faded |= _too_many(left, policy.most, sacred)
        left = [one for one in left if one.number not in faded]
    squeezed = _squeezed(left, now_unix_nanos, policy.max_size_bytes, sacred)
    gone = faded | squeezed
    kept = [one for one in ordered if one.number not in gone]
    kept_bytes = sum(one.stored_bytes for one in kept)
    return Plan(
        delete=tuple(Doomed(number, reason) for number, reason in gone.items()),
        kept_bytes=kept_bytes,
        sentence=_sentence(len(gone), sum(one.stored_bytes for one in ordered) - kept_bytes, kept, kept_bytes, policy),
    )


@dataclass(frozen=True, slots=True)
class Ruin:
    """A checkpoint whose record is damaged; the session is "" if even that is unknown."""

    number: int
    session_id: str
    written_unix_nanos: int


def ruined(
    ruins: Sequence[Ruin], verified: Mapping[str, int], now_unix_nanos: int, policy: Policy, is_full: bool
) -> list[Doomed]:
    """Which damaged ones may go. verified: of each session the number of one that was found intact, 0 if there is none;
    is_full: the store is above its limit."""
    doomed = []
    for one in ruins:
        intact = verified.get(one.session_id, 0) if one.session_id else min(verified.values(), default=0)
        age_days = (now_unix_nanos - one.written_unix_nanos) / (DAY * NANOS)
        if intact > one.number and (is_full or age_days > policy.retention_days):
            why = "the store is above its limit" if is_full else f"it is older than {policy.retention_days:g} days"
            doomed.append(Doomed(one.number, f"its record is damaged, {checkpoint_id(intact)} is intact, and {why}"))
    return doomed


def _sacred(ordered: Sequence[Checkpoint]) -> set[int]:
    """Numbers of those that stay whatever happens."""
    newest = {(one.session_id, one.level): one.number for one in ordered}
    verified = {one.session_id: one.number for one in ordered if one.verified}
    return {*newest.values(), *verified.values(), *(one.number for one in ordered if one.tagged)}


def _recent(ordered: Sequence[Checkpoint], keep: Mapping[Level, int]) -> set[int]:
    """Numbers of the newest few of each session and level."""
    seen: dict[tuple[str, Level], int] = {}
    found = set()
    for one in reversed(ordered):
        kind = (one.session_id, one.level)
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= keep.get(one.level, 0):
            found.add(one.number)
    return found


def _faded(ordered: Sequence[Checkpoint], now: int, policy: Policy, staying: set[int]) -> dict[int, str]:
    """What age and thinning take, oldest first.

    The first of a stretch stands for it also when it is about to go itself, for age or a longer stretch. Otherwise a
    checkpoint would come to matter again by another one's going, and what may go would depend on when one last asked.
    """
    first: dict[tuple[str, Level, int, int], int] = {}
    doomed = {}
    for one in ordered:
        age_seconds = (now - one.created_unix_nanos) // NANOS
        own = _stretch(age_seconds)
        standing = one.number
        for seconds in (600, HOUR, DAY):
            stretch = (one.session_id, one.level, seconds, one.created_unix_nanos // (seconds * NANOS))
            earlier = first.setdefault(stretch, one.number)
            standing = earlier if seconds == own else standing
        if one.number in staying:
            continue
        if age_seconds > policy.retention_days * DAY:
            doomed[one.number] = f"older than {policy.retention_days:g} days"
        elif standing != one.number:
            doomed[one.number] = f"{checkpoint_id(standing)} stands for the same {_words(own)}"
    return doomed


def _stretch(age_seconds: int) -> int:
    """How many seconds share one checkpoint at this age. One from the future, after the clock went back, is new."""
    return next((seconds for limit, seconds in STRETCHES if age_seconds <= limit), DAY)


def _too_many(left: Sequence[Checkpoint], most: int, sacred: set[int]) -> dict[int, str]:
    """What goes because of its session and level there are so many newer ones, oldest first."""
    staying = _recent(left, dict.fromkeys(Level, most)) | sacred
    return {one.number: f"there are {most} newer ones of its level" for one in left if one.number not in staying}


def _squeezed(left: Sequence[Checkpoint], now: int, max_size_bytes: int, sacred: set[int]) -> dict[int, str]:
    """What the limit takes: old ones before young ones, then small levels before large ones, then the oldest; never one
    whose going frees nothing."""
    total = sum(one.stored_bytes for one in left)
    doomed: dict[int, str] = {}

    def worth(one: Checkpoint) -> tuple[int, Level, int]:
        return (-_stretch((now - one.created_unix_nanos) // NANOS), one.level, one.number)

    for one in sorted(left, key=worth):
        if total <= max_size_bytes:
            break
        if one.number in sacred or one.stored_bytes <= 0:
            continue
        total -= one.stored_bytes
        doomed[one.number] = f"the store is above {_size(max_size_bytes)}; the oldest {one.level.name.lower()} one"
    return doomed


def _sentence(gone: int, freed: int, kept: Sequence[Checkpoint], kept_bytes: int, policy: Policy) -> str:
    going = f"{gone} of {gone + len(kept)} checkpoints may go ({_size(freed)})" if gone else "no checkpoint may go"
    said = f"{going}, {len(kept)} stay ({_size(kept_bytes)})"
    if kept_bytes <= policy.max_size_bytes:
        return said
    over = _size(kept_bytes - policy.max_size_bytes)
    return f"{said}: {over} above the limit of {_size(policy.max_size_bytes)}, for the rest is tagged or the last one"


def _words(seconds: int) -> str:
    return {600: "10 minutes", HOUR: "hour", DAY: "day"}[seconds]


def _size(size_bytes: int) -> str:
    """ "1.5 GiB"."""
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{size_bytes} B"
