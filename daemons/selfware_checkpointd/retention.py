"""Lets checkpoints go: asks ``thinning`` which, sees to it that an intact one stays and the disk below its limit.

Before anything of a session is deleted one of its checkpoints is read, newest first, until one is whole: that one
stays. If none is, nothing of the session goes. Chunks are shared, so deleting frees less than it seems: if the files
are above the limit all the same, they are packed tighter, and then more has to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from selfware_checkpointd.manifest import CheckpointInfo, Level
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Checkpoint, Plan, Policy, plan
from selfware_common.errors import DiskFullError

MOST_ROUNDS = 4
EVERYTHING = 1 << 62


def newest_only(keep: Mapping[Level, int]) -> Policy:
    """The policy that keeps so many of each level and session, and nothing for its age."""
    return Policy(retention_days=-1, max_size_bytes=EVERYTHING, keep=keep)


def retain(store: Store, policy: Policy, now_unix_nanos: int) -> str:
    """Delete what may go; one sentence. Blocking, and reads a checkpoint of each session that loses one."""
    planned, said = _delete(store, policy, now_unix_nanos)
    for _ in range(MOST_ROUNDS):
        if store.disk_bytes() <= policy.max_size_bytes:
            break
        with suppress(DiskFullError):  # then more has to go
            store.tighten(EVERYTHING)
        over = store.disk_bytes() - policy.max_size_bytes
        if over <= 0:
            break
        kept = sum(info.stored_bytes for info in store.checkpoints())
        planned, more = _delete(store, replace(policy, max_size_bytes=max(0, kept - over)), now_unix_nanos)
        if not planned.delete:
            return f"{said}; {planned.sentence}"
        said = f"{said}; {more}"
    return said


def _delete(store: Store, policy: Policy, now: int) -> tuple[Plan, str]:
    infos = store.checkpoints()
    planned = plan(_described(infos, {}), now, policy)
    gone = {one.number for one in planned.delete}
    losing = {info.session_id for info in infos if info.number in gone}
    intact = {session: _newest_intact(store, infos, session) for session in sorted(losing)}
    planned = plan(_described(infos, intact), now, policy)
    gone = {one.number for one in planned.delete}
    return planned, store.delete([info for info in infos if info.number in gone])


def _newest_intact(store: Store, infos: list[CheckpointInfo], session_id: str) -> int:
    """Its number, 0 if there is none."""
    own = (info for info in infos if info.session_id == session_id)
    return next((info.number for info in own if store.verify(info.checkpoint_id).intact), 0)


def _described(infos: list[CheckpointInfo], intact: Mapping[str, int]) -> list[Checkpoint]:
    """What the decision needs; of a session without an intact checkpoint all are as if a person wanted to keep them."""
    return [
        Checkpoint(
            info.number,
            info.session_id,
            info.level,
            info.created_unix_nanos,
            info.stored_bytes,
            tagged=intact.get(info.session_id) == 0,
            verified=intact.get(info.session_id) == info.number,
        )
        for info in infos
    ]
