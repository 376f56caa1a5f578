"""Puts a state together from its chunks, wherever they lie, and believes none of them before its hash fits.

Reads packs through the catalog, changes nothing but the catalog's knowledge of what is damaged.
"""

from __future__ import annotations

from blake3 import blake3

from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.manifest import CheckpointInfo, Run, checkpoint_id
from selfware_checkpointd.packs import Group
from selfware_common.state.comparing import root_of

CACHED_GROUPS = 64


class Assembler:
    """Reads from one catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def state(self, info: CheckpointInfo) -> bytes:
        """The state, verified; CheckpointCorruptError says what does not fit."""
        state, digests = self._assemble(info)
        whole = blake3(state).digest() if self._catalog.packs[info.number].version == 1 else root_of(digests)
        if whole != info.state_hash or len(state) != info.state_bytes:
            problem = "the whole state does not match its hash"
            raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=problem)
        return state

    def _assemble(self, info: CheckpointInfo) -> tuple[bytes, list[bytes]]:
        try:
            runs = self._catalog.runs_of(info.number)
        except ValueError as error:
            raise CheckpointCorruptError(checkpoint_id=info.checkpoint_id, problem=str(error)) from error
        cache: dict[tuple[int, int], list[bytes | None]] = {}
        pieces: list[bytes] = []
        digests: list[bytes] = []
        for run in runs:
            self._read_run(info, run, cache, pieces, digests)
        return b"".join(pieces), digests

    def _read_run(
        self,
        info: CheckpointInfo,
        run: Run,
        cache: dict[tuple[int, int], list[bytes | None]],
        pieces: list[bytes],
        digests: list[bytes],
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
                digests.append(group.hashes[at])
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
