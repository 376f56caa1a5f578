"""Checkpoints: a state goes in as bytes, comes out as the same bytes or not at all.

The idea: cut the state by its content, keep each chunk once, write what is new as one pack with one fdatasync. A
chunk is believed only if its BLAKE3 fits, and a state only if the hash over all of it fits too.

Owns the directory ``checkpoints/`` through ``catalog``. Thread-safe: one call at a time. Never looks into a state,
never decides which checkpoints may go (``retention`` does), never logs: ``opened`` says what is damaged.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard
from blake3 import blake3

from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.chunking import Chunker
from selfware_checkpointd.comparing import Comparer
from selfware_checkpointd.errors import (
    CheckpointAmbiguousError,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    UnusableStateError,
    disk_error,
)
from selfware_checkpointd.files import Sync, make_directory, write_durably
from selfware_checkpointd.manifest import CheckpointInfo, Level, Run, checkpoint_id, encode_manifest, runs_of
from selfware_checkpointd.packs import GROUP_BYTES, Group, encode_end, encode_group, encode_header
from selfware_checkpointd.retention import beyond_newest

COMPRESSION_LEVEL = 3
CACHED_GROUPS = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a checkpoint can be restored; problem is one sentence if not."""

    checkpoint_id: str
    intact: bool
    problem: str


class Store:
    """All checkpoints of all sessions."""

    def __init__(self, directory: Path, sync: Sync = os.fdatasync) -> None:
        """Fails if the compiled chunker is missing; reads the index of every pack."""
        self._comparer = Comparer(Chunker())
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=False)
        self._sync = sync
        self._lock = threading.RLock()
        try:
            make_directory(directory)
            self._catalog = Catalog(directory)
        except OSError as error:
            raise disk_error(error, "checkpoints", directory) from error
        self.opened = [verdict.problem for verdict in self.unreadable()]

    def save(
        self,
        session_id: str,
        level: Level,
        sequence: int,
        state: bytes | bytearray,
        label: str,
        now_unix_nanos: int,
        before_commit: Callable[[], None] | None = None,
        expected_hash: bytes | None = None,
    ) -> CheckpointInfo:
        """Durable on return. The same state for the same event and level again gives the same checkpoint.

        The state is kept in memory to compare the next one with: the caller must not change it afterwards.
        before_commit is called when all is written and nothing is visible yet; what it raises undoes the save.
        A client that died in the middle ends its stream like one that is done: expected_hash can tell.
        """
        with self._lock:
            digest = blake3(state).digest()
            if expected_hash is not None and digest != expected_hash:
                raise UnusableStateError(problem="the bytes that came do not match the hash that came with them")
            for info in self.checkpoints(session_id):
                if (info.level, info.sequence, info.state_hash) == (level, sequence, digest):
                    return info
            number = self._catalog.next_number()
            draft = CheckpointInfo(number, session_id, level, sequence, now_unix_nanos, len(state), 0, digest, label)
            return self._write(draft, state, before_commit)

    def load(self, prefix: str) -> tuple[CheckpointInfo, bytes]:
        """The state, every chunk of it verified; raises CheckpointCorruptError naming what does not fit."""
        with self._lock:
            info = self.find(prefix)
            state = self._assemble(info)
            if blake3(state).digest() != info.state_hash:
                raise CheckpointCorruptError(
                    checkpoint_id=info.checkpoint_id, problem="the whole state does not match its hash"
                )
            return info, state

    def find(self, prefix: str) -> CheckpointInfo:
        """The checkpoint with this id or the only one whose id begins like this."""
        with self._lock:
            matching = [n for n, p in self._catalog.packs.items() if p.is_live and checkpoint_id(n).startswith(prefix)]
            exact = [number for number in matching if checkpoint_id(number) == prefix]
            if not matching:
                raise CheckpointNotFoundError(checkpoint_id=prefix)
            if len(matching) > 1 and not exact:
                raise CheckpointAmbiguousError(checkpoint_id=prefix, count=len(matching))
            (number,) = exact or matching
            pack = self._catalog.packs[number]
            if pack.info is None:
                raise CheckpointCorruptError(checkpoint_id=checkpoint_id(number), problem=pack.problem)
            return pack.info

    def checkpoints(self, session_id: str = "") -> list[CheckpointInfo]:
        """Readable checkpoints, newest first; of every session if none is named."""
        with self._lock:
            infos = [pack.info for pack in self._catalog.packs.values() if pack.info is not None]
        chosen = [info for info in infos if session_id in ("", info.session_id)]
        return sorted(chosen, key=lambda info: info.number, reverse=True)

    def latest(self, session_id: str) -> CheckpointInfo:
        """The newest readable one; its chunks are not checked here."""
        infos = self.checkpoints(session_id)
        if not infos:
            raise CheckpointNotFoundError(checkpoint_id=f"of session {session_id}")
        return infos[0]

    def unreadable(self, session_id: str = "") -> list[Verdict]:
        """Checkpoints whose own record is damaged, newest first; one of unknown session counts for every session."""
        with self._lock:
            return [
                Verdict(checkpoint_id(number), False, f"Checkpoint {checkpoint_id(number)} is damaged: {pack.problem}.")
                for number, pack in sorted(self._catalog.packs.items(), reverse=True)
                if pack.is_live and pack.info is None and (not session_id or pack.session_id in ("", session_id))
            ]

    def verify(self, prefix: str) -> Verdict:
        """Read and check all of one checkpoint."""
        with self._lock:
            try:
                info, _ = self.load(prefix)
            except CheckpointCorruptError as error:
                return Verdict(str(error.fields["checkpoint_id"]), False, error.sentence)
            return Verdict(info.checkpoint_id, True, "")

    def verify_all(self, session_id: str = "") -> list[Verdict]:
        """Read and check every checkpoint, newest first."""
        verdicts = [self.verify(info.checkpoint_id) for info in self.checkpoints(session_id)]
        return sorted(verdicts + self.unreadable(session_id), key=lambda verdict: verdict.checkpoint_id, reverse=True)

    def retain(self, keep: Mapping[Level, int]) -> str:
        """Delete all but the newest of each level and session, but never the only intact one; one sentence."""
        with self._lock:
            doomed: list[CheckpointInfo] = []
            infos = self.checkpoints()
            for session_id in sorted({info.session_id for info in infos}):
                own = [info for info in infos if info.session_id == session_id]
                doomed += self._spare_last_intact(own, beyond_newest(own, keep))
            try:
                if doomed:
                    self._catalog.retire([info.number for info in doomed])
                freed = self._catalog.sweep()
            except OSError as error:
                raise disk_error(error, "the checkpoint directory", self._catalog.directory) from error
            return f"deleted {len(doomed)} checkpoints, freed {freed} bytes"

    def _spare_last_intact(self, own: list[CheckpointInfo], doomed: list[CheckpointInfo]) -> list[CheckpointInfo]:
        if not doomed:
            return []
        kept = [info for info in own if info not in doomed]
        for info in kept + doomed:  # newest first in both
            if self.verify(info.checkpoint_id).intact:
                return [other for other in doomed if other is not info]
        return []

    def _write(
        self, draft: CheckpointInfo, state: bytes | bytearray, before_commit: Callable[[], None] | None
    ) -> CheckpointInfo:
        """Cut, compress what is new, write one pack."""
        header = encode_header(draft.number, draft.session_id)
        heads: list[bytes] = []
        pieces: list[bytes] = [header]
        groups: list[Group] = []
        waiting: list[tuple[bytes, memoryview]] = []
        places: list[tuple[int, int]] = []
        fresh: dict[bytes, tuple[int, int]] = {}
        offset, waiting_bytes = len(header), 0

        def close_group() -> None:
            nonlocal offset, waiting_bytes
            first = len(fresh) - len(waiting)
            head, frame = encode_group(waiting, first, self._compressor)
            hashes, lengths = tuple(d for d, _ in waiting), tuple(len(c) for _, c in waiting)
            groups.append(Group(offset + len(head), len(frame), first, hashes, lengths))
            heads.append(head)
            pieces.extend((head, frame))
            offset += len(head) + len(frame)
            waiting.clear()
            waiting_bytes = 0

        known = self._catalog.places
        for digest, chunk in self._comparer.cut(state):
            place = known.get(digest) or fresh.get(digest)
            if place is None:
                if waiting_bytes + len(chunk) > GROUP_BYTES and waiting:
                    close_group()
                place = fresh[digest] = (draft.number, len(fresh))
                waiting.append((digest, chunk))
                waiting_bytes += len(chunk)
            places.append(place)
        if waiting:
            close_group()
        manifest = self._compressor.compress(encode_manifest(draft, runs_of(places)))
        pieces.append(encode_end(header, heads, manifest, offset))
        path = self._catalog.path_of(draft.number)
        try:
            size = write_durably(path, [b"".join(pieces)], self._sync, before_commit)
        except OSError as error:
            raise disk_error(error, f"a checkpoint of session {draft.session_id}", path.parent) from error
        info = replace(draft, stored_bytes=size)
        self._catalog.add(path, info, groups)
        return info

    def _assemble(self, info: CheckpointInfo) -> bytes:
        try:
            runs = self._catalog.runs_of(info.number)
        except ValueError as error:
            raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=str(error)) from error
        cache: dict[tuple[int, int], list[bytes | None]] = {}
        pieces: list[bytes] = []
        for run in runs:
            self._read_run(info, run, cache, pieces)
        return b"".join(pieces)

    def _read_run(
        self,
        info: CheckpointInfo,
        run: Run,
        cache: dict[tuple[int, int], list[bytes | None]],
        pieces: list[bytes],
    ) -> None:
        pack = self._catalog.packs.get(run.pack)
        if pack is None:
            problem = f"{checkpoint_id(run.pack)}, which holds {run.count} of its chunks, is missing"
            raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)
        index, end = run.first, run.first + run.count
        while index < end:
            group = pack.group_of(index)
            if group is None:
                problem = f"chunk {index} of {checkpoint_id(run.pack)} is missing"
                raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)
            chunks = cache.get((run.pack, group.first))
            if chunks is None:
                while len(cache) >= CACHED_GROUPS:
                    del cache[next(iter(cache))]
                chunks = cache[(run.pack, group.first)] = self._catalog.unpack(run.pack, group)
            stop = min(end, group.first + len(chunks))
            for at in range(index - group.first, stop - group.first):
                chunk = chunks[at]
                pieces.append(self._other_copy(info, run.pack, group, at) if chunk is None else chunk)
            index = stop

    def _other_copy(self, info: CheckpointInfo, number: int, group: Group, at: int) -> bytes:
        """The same chunk as a later save stored it again, after the damage was noticed."""
        digest = group.hashes[at]
        place = self._catalog.places.get(digest)
        if place is not None and place != (number, group.first + at):
            other = self._catalog.packs[place[0]].group_of(place[1])
            chunk = self._catalog.unpack(place[0], other)[place[1] - other.first] if other else None
            if chunk is not None:
                return chunk
        problem = f"chunk {digest.hex()[:16]} in {checkpoint_id(number)} does not match its hash"
        raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)
