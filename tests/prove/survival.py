"""What must hold after anything happened: asked of the plain product, answered in sentences."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

from selfware_checkpointd.errors import CheckpointNotFoundError, EventsLetGoError, StaleWriterError
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.retention import newest_only
from selfware_checkpointd.segment import Record
from selfware_common.errors import SelfwareError
from tests.prove.storage_workload import NOW, SESSIONS, Promises, SavedKey, key_of, opened

LAST = b"no checkpoint covers this one"
UNFINISHED = ("unfinished bytes off", "was cut off while it was saved")


async def problems(root: Path, promises: Promises) -> list[str]:
    """Everything that is wrong in this directory; changes it, as a restart and going on do."""
    found: list[str] = []
    try:
        await _all(root, promises, found)
    except SelfwareError as error:
        found.append(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001 -- whatever it is, it is what this proof looks for
        found.append("not an error of ours: " + " | ".join(traceback.format_exc().splitlines()[-6:]))
    return found


async def _all(root: Path, promises: Promises, found: list[str]) -> None:
    memory = opened(root)
    _saves(memory, promises, found)
    for session, epoch in promises.epochs.items():
        await _session(memory, session, epoch, promises, found)
    for verdict in await memory.verify():
        if not verdict.intact:
            found.append(f"verify: {verdict.problem}")
    for note in memory.notes:
        if not any(words in note for words in UNFINISHED):
            found.append(f"note: {note}")
    news = {name: await _go_on(memory, name, promises.epochs.get(name, 0), found) for name in SESSIONS}
    await memory.maintain(newest_only(dict.fromkeys(Level, 50)))
    await memory.close()
    again = opened(root)
    for session, (last, state) in news.items():
        recovery = await again.recover(session)
        told = [record.payload for record in recovery.events]
        if recovery.last_sequence != last or told != [LAST] or recovery.state != state or recovery.skipped:
            found.append(f"{session}: what was done after recovery is not there after a restart")
    found += [f"note after going on: {note}" for note in again.notes]
    await again.close()
    if left := [path.name for path in root.rglob("*.tmp")]:
        found.append(f"temporary files stayed: {left}")


def _saves(memory: Memory, promises: Promises, found: list[str]) -> None:
    listed: Counter[SavedKey] = Counter()
    possible = promises.possible_saves()
    for info in memory.store.checkpoints():
        key = key_of(info)
        listed[key] += 1
        expected = promises.saved.get(key, possible.get(key))
        if expected is None:
            found.append(f"{info.checkpoint_id} ({key}) was never asked for")
            continue
        try:
            _, state = memory.store.load(info.checkpoint_id)
        except SelfwareError as error:
            found.append(f"lost: {error.sentence}")
        else:
            if state != expected:
                found.append(f"WRONG BYTES in {info.checkpoint_id}")
    found += [f"lost: acknowledged save {key}" for key in promises.saved if not listed[key]]
    found += [f"twice: {key}" for key, count in listed.items() if count > 1]


async def _session(memory: Memory, session: str, epoch: int, promises: Promises, found: list[str]) -> None:
    acknowledged = promises.events[session]
    wanted = acknowledged + promises.possible_events(session)
    floor = memory.journal(session).floor
    read = list(memory.read(session, floor))
    if floor:
        found += _let_go(memory, session, floor, promises)
        read = wanted[:floor] + read
    if len(read) < len(acknowledged):
        found.append(f"lost: {session} has {len(read)} of {len(acknowledged)} acknowledged events")
    if len(read) > len(wanted):
        found.append(f"{session} has events that were never written")
    for got, want in zip(read, wanted, strict=False):
        if got._replace(epoch=0) != want._replace(epoch=0):
            found.append(f"WRONG BYTES in event {want.sequence} of {session}")
            break
    recovery = await memory.recover(session)
    after = recovery.checkpoint.sequence if recovery.checkpoint else 0
    if recovery.skipped or list(recovery.events) != read[after:]:
        found.append(f"recovery of {session}: {recovery.skipped or 'other events than the journal has'}")
    if memory.sessions.get(session).epoch < epoch:
        found.append(f"lost: epoch {epoch} of {session} was acknowledged")


def _let_go(memory: Memory, session: str, floor: int, promises: Promises) -> list[str]:
    """Old events went: on purpose, as two checkpoints hold them, and a reader is told."""
    found = [] if promises.is_trimmed else [f"lost: events of {session} went without a reason"]
    holding = [info for info in memory.store.checkpoints(session) if info.sequence >= floor]
    if len(holding) < 2:
        found.append(f"lost: events up to {floor} of {session} went, and {len(holding)} checkpoints hold them")
    try:
        list(memory.read(session, floor - 1))
        found.append(f"{session}: events before {floor} are said to be there")
    except EventsLetGoError:
        pass
    return found


async def _go_on(memory: Memory, session: str, epoch: int, found: list[str]) -> tuple[int, bytes]:
    """A new writer: an epoch of its own, the next event, a checkpoint, one more event; the old writer is out."""
    opened = await memory.open_session(session, "after")
    epoch = epoch or opened.epoch - 1
    if opened.epoch <= epoch:
        found.append(f"{session}: epoch {opened.epoch} was given twice")
    try:
        await memory.append(session, epoch, [Record(epoch, opened.last_sequence + 1, NOW, "Old", b"")])
        found.append(f"{session}: the writer of epoch {epoch} was not refused")
    except StaleWriterError:
        pass
    last, state = opened.last_sequence + 1, f"state of {session} afterwards".encode() * 300
    await memory.append(session, opened.epoch, [Record(opened.epoch, last, NOW, "After", b"went on")])
    info = await memory.save(session, opened.epoch, Level.TASK, last, state, "after")
    try:
        if (await memory.load(info.checkpoint_id))[1] != state:
            found.append(f"WRONG BYTES in the new {info.checkpoint_id}")
    except CheckpointNotFoundError as error:
        found.append(error.sentence)
    await memory.append(session, opened.epoch, [Record(opened.epoch, last + 1, NOW, "After", LAST)])
    return last + 1, state
