"""Which packs are copied to the cold store, and which then go from here. A decision only: no files, no clock.

A checkpoint is made of chunks from many packs, old ones too. So that a session can always go on without the cold
store, a pack goes from here only when no checkpoint younger than the limit uses it, nor the newest one of any session.
Copying has no such condition: what is copied early can heal what is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfware_checkpointd.manifest import CheckpointInfo

NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ColdPolicy:
    """[checkpoint.cold] after_seconds and keep_local_bytes."""

    after_seconds: float = 86_400.0
    keep_local_bytes: int = 1024**3


@dataclass(frozen=True, slots=True)
class Held:
    """What the decision needs to know of a pack that is here."""

    number: int
    size_bytes: int
    is_copied: bool
    is_settled: bool  # upkeep will not soon write it anew


@dataclass(frozen=True, slots=True)
class Used:
    """A living checkpoint, and the numbers of the packs that hold its chunks."""

    info: CheckpointInfo
    packs: frozenset[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of packs, in this order; what is evicted has been copied already."""

    copy: tuple[int, ...]
    evict: tuple[int, ...]


def plan(held: Sequence[Held], used: Sequence[Used], now_unix_nanos: int, policy: ColdPolicy) -> Plan:
    """What is due now."""
    limit = now_unix_nanos - round(policy.after_seconds * NANOS)
    needed = _needed(used, limit)
    old = _oldest_numbers(used, limit)
    ordered = sorted(held, key=lambda one: one.number)
    copy = tuple(one.number for one in ordered if not one.is_copied and one.is_settled and one.number <= old)
    over = sum(one.size_bytes for one in ordered if one.is_copied) - policy.keep_local_bytes
    return Plan(copy, _until_freed((one for one in ordered if one.is_copied and one.number not in needed), over))


def plan_for_room(held: Sequence[Held], used: Sequence[Used], over_bytes: int) -> Plan:
    """What to push out, however young, so that nothing has to be deleted: all but what a session needs to go on."""
    needed = _needed(used, None)
    ordered = [one for one in sorted(held, key=lambda one: one.number) if one.number not in needed]
    going = set(_until_freed([*(one for one in ordered if one.is_copied), *ordered], over_bytes))
    return Plan(
        tuple(one.number for one in ordered if one.number in going and not one.is_copied),
        tuple(one.number for one in ordered if one.number in going),
    )


def _needed(used: Iterable[Used], limit: int | None) -> set[int]:
    """Packs that stay here: of each session's newest checkpoint, and of all that were made after the limit."""
    newest: dict[str, Used] = {}
    needed: set[int] = set()
    for one in sorted(used, key=lambda one: one.info.number):
        newest[one.info.session_id] = one
        if limit is not None and one.info.created_unix_nanos > limit:
            needed |= one.packs
    return needed.union(*(one.packs for one in newest.values()))


def _oldest_numbers(used: Iterable[Used], limit: int) -> int:
    """Up to this number packs are older than the limit: numbers are given in the order of time."""
    return max((one.info.number for one in used if one.info.created_unix_nanos <= limit), default=0)


def _until_freed(ordered: Iterable[Held], over_bytes: int) -> tuple[int, ...]:
    going: dict[int, None] = {}
    for one in ordered:
        if over_bytes <= 0:
            break
        if one.number not in going:
            going[one.number] = None
            over_bytes -= one.size_bytes
    return tuple(going)
