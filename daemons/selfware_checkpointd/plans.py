"""Says where everything lies that a checkpoint's state is made of: which groups of which packs, and what of each of
them belongs where in the state.

Reads no chunk. Owns nothing: whoever holds a plan sees to it that its packs are not moved or removed meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from selfware_checkpointd.catalog import Catalog, Pack
from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.manifest import CheckpointInfo, Run, checkpoint_id
from selfware_checkpointd.packs import Group
from selfware_common.state.comparing import root_of

Key = tuple[int, int]
"""Pack, first chunk of a group."""


@dataclass(slots=True)
class Part:
    """Neighbouring chunks in one group, and where they belong."""

    key: Key
    at: int
    stop: int
    offset: int  # of the first one's first byte, in the state


@dataclass(slots=True)
class Plan:
    """What to read for a checkpoint."""

    info: CheckpointInfo
    is_rooted: bool  # else its hash is that of the whole state: packs of version 1
    at_rest: bool = False  # nothing from memory
    parts: list[Part] = field(default_factory=list)  # in the order of the state
    groups: dict[Key, tuple[Pack, Group]] = field(default_factory=dict)  # in the order in which they are used first
    parts_of: dict[Key, list[Part]] = field(default_factory=dict)
    damaged: list[tuple[int, int]] = field(default_factory=list)  # (pack, chunk), found while reading


def plan_of(catalog: Catalog, info: CheckpointInfo, at_rest: bool = False) -> Plan:
    """Where everything lies; CheckpointCorruptError if some of it is missing, or what is there is not the whole."""
    try:
        runs = catalog.runs_of(info.number)
    except ValueError as error:
        raise damaged(info, str(error)) from error
    plan = Plan(info, catalog.packs[info.number].version > 1, at_rest)
    digests: list[bytes] = []
    size = 0
    for run in runs:
        size = _plan_run(plan, catalog.packs.get(run.pack), run, size, digests)
    if size != info.state_bytes or (plan.is_rooted and root_of(digests) != info.state_hash):
        raise damaged(info, "the whole state does not match its hash")
    return plan


def damaged(info: CheckpointInfo, problem: str) -> CheckpointCorruptError:
    """To be raised: what is wrong with this checkpoint."""
    return CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)


def _plan_run(plan: Plan, pack: Pack | None, run: Run, offset: int, digests: list[bytes]) -> int:
    """Where the next run begins."""
    if pack is None:
        problem = f"{checkpoint_id(run.pack)}, which holds {run.count} of its chunks, is missing"
        raise damaged(plan.info, problem)
    index, end = run.first, run.first + run.count
    while index < end:
        group = pack.group_of(index)
        if group is None:
            raise damaged(plan.info, f"chunk {index} of {checkpoint_id(run.pack)} is missing")
        key, at = (run.pack, group.first), index - group.first
        part = Part(key, at, min(end - group.first, len(group.hashes)), offset)
        plan.groups[key] = (pack, group)
        plan.parts.append(part)
        plan.parts_of.setdefault(key, []).append(part)
        digests += group.hashes[at : part.stop]
        offset += sum(group.lengths[at : part.stop])
        index = group.first + part.stop
    return offset
