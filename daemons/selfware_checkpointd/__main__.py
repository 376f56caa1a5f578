"""Wires checkpointd: the store on its disk, the service on its socket, upkeep in the cycle."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from selfware_checkpointd import config
from selfware_checkpointd.allocator import keep_large_blocks_apart
from selfware_checkpointd.bulk import PEOPLE, BulkServer
from selfware_checkpointd.credentials import open_vault
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.service import CheckpointService
from selfware_common import catalog, daemon, log
from selfware_common.errors import SelfwareError
from selfware_common.health import Check, room
from selfware_common.rpc import checkpoint_pb2_grpc
from selfware_common.rpcserver import Register
from selfware_common.state.wire import BULK_SOCKET, TAGS_SOCKET

CYCLE_SECONDS = 10.0
SWITCH_SECONDS = 0.001  # threads that compare and compress give way to the event loop five times sooner than usual
MAINTAIN_SECONDS = 60.0
MOST_NAMES = 3  # in a sentence
LEAST_BYTES, LEAST_FILES = 64 * 2**20, 64  # a checkpoint, and a journal segment for each session


class CheckpointDaemon(daemon.Daemon):
    """Nothing is acknowledged before it is on disk."""

    name = "checkpointd"
    idea = "Keeps the journal and the checkpoints of every session."

    async def open(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._root = config.root(self.paths, self.settings)
        vault = open_vault(self.settings.checkpoint.encryption, os.environ)
        own, cold = self.settings.checkpoint, config.cold_store(self.paths, self.settings)
        policy = config.policy(self.settings)
        self._memory = await asyncio.to_thread(
            lambda: Memory(self._root, compression_level=own.compression_level, policy=policy, cold=cold, vault=vault)
        )
        self._set_policies()
        self._service = CheckpointService(
            self._memory, self.settings.resources.quotas.max_checkpoint_size, lambda: config.policy(self.settings)
        )
        self._bulk = BulkServer(
            self.paths.socket_of(self.name, BULK_SOCKET),
            self._memory,
            self._root,
            self.settings.resources.quotas.max_checkpoint_size,
            self._service.saved_elsewhere(asyncio.get_running_loop()),
        )
        self._bulk.start()
        self._tags = BulkServer(
            self.paths.socket_of(self.name, TAGS_SOCKET), self._memory, self._root, 0, lambda: None, PEOPLE
        )
        self._tags.start()
        self._maintained = time.monotonic()
        self._upkeep: asyncio.Task[str] | None = None
        self._log_notes()

    async def reloaded(self) -> None:
        """Policies count at once; another store only after a restart."""
        self._set_policies()

    def services(self) -> tuple[list[str], list[Register]]:
        return ["selfware.checkpoint.v1.Checkpoint"], [
            lambda server: checkpoint_pb2_grpc.add_CheckpointServicer_to_server(self._service, server)
        ]

    def checks(self) -> list[Check]:
        return [room(self._root, LEAST_BYTES, LEAST_FILES)]

    def facts(self) -> dict[str, str]:
        return {
            "appended_events": str(self._service.appended_events),
            "checkpoints": str(len(self._memory.store.checkpoints())),
            "encrypted_with_key": (self._memory.vault.key_id or b"").hex(),
            "damaged_checkpoints": str(len(self._memory.store.scrub.damage())),
            **self._memory.store.tiers.facts(),
            "stored_bytes": str(self._memory.bounds.room.used_bytes()),
        }

    def grace_seconds(self) -> float:
        """Appends in flight are quick; followers lose nothing."""
        return 0.5

    async def cycle(self) -> str:
        await self.wait_or_stop(CYCLE_SECONDS, self._service.changed)
        self._service.changed.clear()
        self._log_notes()
        return self._upkept() or self._sentence()

    def _upkept(self) -> str:
        """Begin the upkeep when it is due, beside the cycles: packing a large store takes longer than the watchdog
        waits. What the last one did, once; what stopped it is no reason to end: the next one tries again."""
        done = ""
        if self._upkeep is not None and self._upkeep.done():
            error = self._upkeep.exception()
            if error is None:
                done = self._upkeep.result()
            elif isinstance(error, SelfwareError):
                done = f"upkeep has to wait: {error.sentence}"
            else:  # a defect of ours must not take away what is kept, each minute anew
                self.log.error("upkeep failed", exc_info=error)
                done = f"upkeep failed ({type(error).__name__}: {error}); it is tried again, and all else goes on"
            self._upkeep = None
        if self._upkeep is None and time.monotonic() - self._maintained >= MAINTAIN_SECONDS:
            self._maintained = time.monotonic()
            self._upkeep = asyncio.create_task(self._memory.maintain(config.policy(self.settings)))
        return done

    async def close(self) -> None:
        await asyncio.to_thread(self._bulk.stop)
        await asyncio.to_thread(self._tags.stop)
        self._memory.store.hurry()
        if self._upkeep is not None:
            await asyncio.wait({self._upkeep})
        await self._memory.close()

    def _sentence(self) -> str:
        newest = self._memory.store.checkpoints()[:1]
        if not newest:
            return "keeping the journal, no checkpoint yet"
        one = newest[0]
        level = one.level.name.lower()
        said = f"newest checkpoint {one.checkpoint_id} ({level}) of {one.session_id} at event {one.sequence}"
        damaged = sorted(one.checkpoint_id for one in self._memory.store.scrub.damage().values())
        if damaged:
            said += f"; damaged: {', '.join(damaged[:MOST_NAMES])}{' ...' if len(damaged) > MOST_NAMES else ''}"
        behind = self._memory.store.tiers.behind
        return f"{said}; {behind}" if behind else said

    def _set_policies(self) -> None:
        self._memory.cold_policy = config.cold_policy(self.settings)
        self._memory.scrub_policy = config.scrub_policy(self.settings)

    def _log_notes(self) -> None:
        for note in self._memory.notes:
            self.log.warning("%s", note)
        self._memory.notes.clear()
        for one in self._memory.store.scrub.taken_news():
            extra = log.event(catalog.CHECKPOINT_DAMAGED, checkpoint_id=one.checkpoint_id)
            self.log.error("%s", one.sentence, extra=extra)


def main() -> int:
    keep_large_blocks_apart()
    return daemon.run(CheckpointDaemon)


if __name__ == "__main__":
    sys.exit(main())
