"""Checkpoints: a state goes in as bytes, comes out as the same bytes or not at all.

The idea: cut the state by its content, keep each chunk once, write what is new as one pack with one fdatasync. What
did not change since the session's last checkpoint is recognised by its hashes, or the client says so (``save_change``)
and proves it with the root over all chunk digests. A chunk is believed only if its BLAKE3 fits, and a state only if
its root fits too.

Owns the directory ``checkpoints/`` through ``catalog``. Thread-safe: one call at a time. Never looks into a state,
never decides which checkpoints may go (``thinning`` does), never logs: ``opened`` says what is damaged.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from blake3 import blake3

from selfware_checkpointd.ahead import Ahead
from selfware_checkpointd.assembling import Assembler, Put, Whole
from selfware_checkpointd.bases import Bases
from selfware_checkpointd.catalog import Catalog
from selfware_checkpointd.chunklist import ChunkList, Newest
from selfware_checkpointd.coldstore import ColdStore
from selfware_checkpointd.copies import Copies
from selfware_checkpointd.errors import (
    CheckpointAmbiguousError,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    ColdAwayError,
    UnusableStateError,
    disk_error,
)
from selfware_checkpointd.files import Sync, make_directory
from selfware_checkpointd.filling import Filling, compared
from selfware_checkpointd.healing import Healer
from selfware_checkpointd.hot import Hot, is_right
from selfware_checkpointd.manifest import CheckpointInfo, Level, checkpoint_id, number_of
from selfware_checkpointd.packing import Packer
from selfware_checkpointd.packreading import PackReader
from selfware_checkpointd.placing import hashed, placed
from selfware_checkpointd.plans import Plan, plan_of
from selfware_checkpointd.repacking import DEAD_SHARE
from selfware_checkpointd.room import Room
from selfware_checkpointd.scrub import Scrub
from selfware_checkpointd.subject import Subject, Verdict
from selfware_checkpointd.tags import Tags
from selfware_checkpointd.thinning import Ruin
from selfware_checkpointd.tiers import Tiers
from selfware_checkpointd.upkeep import TIGHTEN_BYTES, Upkeep
from selfware_checkpointd.vault import NO_VAULT, Vault
from selfware_common.state.chunking import Chunker
from selfware_common.state.comparing import Span, root_of
from selfware_common.state.scanning import Found, Read, ShorterError, Window, scan

__all__ = ["Store", "Subject", "Verdict"]

COMPRESSION_LEVEL = 6  # [checkpoint] compression_level, unless set

PIECE_BYTES = 1024 * 1024

Check = Callable[[], None]


class Store:
    """All checkpoints of all sessions."""

    def __init__(
        self,
        directory: Path,
        sync: Sync = os.fdatasync,
        compression_level: int = COMPRESSION_LEVEL,
        room: Room | None = None,
        cold: ColdStore | None = None,
        vault: Vault = NO_VAULT,
    ) -> None:
        """Fails if the compiled chunker is missing; reads the index of every pack. The level is zstd's, for packs that
        are packed tighter. No pack grows beyond what the room allows. ``cold``: where old packs may lie.
        KeyMissingError if a pack is encrypted with a key that the vault has not."""
        room = room or Room()
        self._chunker = Chunker()
        self._lock = threading.RLock()
        self._newest = Newest()
        self._hot = Hot()
        self._filler = ThreadPoolExecutor(1, "fill")
        try:
            make_directory(directory)
            self._catalog = Catalog(directory, vault)
            self._packer = Packer(self._catalog.path_of, sync, room, vault)
            self.tags = Tags(directory)
        except OSError as error:
            raise disk_error(error, "checkpoints", directory) from error
        self._bases = Bases(self._catalog, self._newest)
        self._reader = PackReader(cold)
        self._assembler = Assembler(self._reader)
        self._upkeep = Upkeep(self._catalog, self._lock, self._newest, sync, compression_level, room, vault)
        self.tiers = Tiers(self._catalog, self._reader, self._upkeep, cold, vault)
        self._copies = Copies(self._catalog, self._reader, self._hot, self._newest, self._lock)
        healer = Healer(
            self._catalog, self._reader, self._upkeep, self.tiers, self._newest, sync, self._copies.anywhere, vault
        )
        self.scrub = Scrub(self._catalog, self._upkeep, healer)
        self.opened = [verdict.problem for verdict in self.unreadable()] + self.tags.opened
        if self._catalog.cut_off:
            self.opened.append(self._catalog.cut_off)

    def save(
        self,
        session_id: str,
        level: Level,
        sequence: int,
        state: bytes | bytearray | memoryview,
        label: str,
        now_unix_nanos: int,
        before_commit: Check | None = None,
        expected_hash: bytes | None = None,
    ) -> CheckpointInfo:
        """Durable on return. The same state for the same event and level again gives the same checkpoint.

        before_commit is called when all is written and nothing is visible yet; what it raises undoes the save.
        A client that died in the middle ends its stream like one that is done: expected_hash (BLAKE3-256 of the state)
        can tell.
        """
        if expected_hash is not None and blake3(state).digest() != expected_hash:
            raise UnusableStateError(problem="the bytes that came do not match the hash that came with them")
        subject = Subject(session_id, level, sequence, label, now_unix_nanos)
        with self._lock:
            _, base = self._bases.newest(session_id, level)
            found = scan(self._chunker, Window.over(memoryview(state)), base.cut)
            return self._save(subject, base, found, None, before_commit)

    def save_from(self, subject: Subject, size: int, read: Read, before_commit: Check | None = None) -> CheckpointInfo:
        """The same from a source of so many bytes. Raises UnusableStateError if it ends early."""
        kind = (subject.session_id, subject.level)
        with self._lock:
            number, base = self._bases.newest(*kind)
            room = self._hot.room(size, kind)
            if room is None:
                found = scan(self._chunker, Window(size, read), base.cut)
                return self._save(subject, base, found, None, before_commit)
            before = self._hot.get(kind, number)
            ahead = self._packer.ahead()
            filling = Filling(room, size, read, self._filler)
            try:
                if before is None:
                    found = scan(self._chunker, Window(size, read, filling.state), base.cut)
                else:
                    found = compared(self._chunker, before, base.cut, filling, ahead)
                info = self._save(subject, base, found, None, before_commit, ahead)
            except BaseException:
                filling.close()
                self._hot.give_back(room)
                raise
            self._hot.put(kind, info.number, room, size)
            return info

    def save_change(
        self,
        subject: Subject,
        base_id: str,
        spans: Sequence[Span],
        fresh: Iterable[memoryview],
        root: bytes,
        before_commit: Check | None = None,
        ahead: Ahead | None = None,
    ) -> CheckpointInfo:
        """The same for a client that kept the state before: only what is new comes. Durable on return.

        base_id: the checkpoint that the spans speak of, "" for none. Raises UnknownBaseError if that is gone or
        damaged: send everything then. Raises UnusableStateError if the whole does not have this root. ahead: what is
        new beyond ``fresh``, and is being compressed already.
        """
        with self._lock:
            base = self._bases.named(base_id, subject.session_id, self.find)
            known = self._catalog.same(subject.session_id, subject.level, subject.sequence, root)
            if known is not None:
                return known
            found = hashed(spans, fresh, ahead.chunks if ahead is not None else ())
            return self._save(subject, base, found, root, before_commit, ahead)

    def ahead(self) -> Ahead:
        """To compress chunks of a save that begins soon."""
        return self._packer.ahead()

    def load(self, prefix: str) -> tuple[CheckpointInfo, bytes]:
        """The state, every chunk of it verified; raises CheckpointCorruptError naming what does not fit."""
        whole = Whole()
        info = self.restore(prefix, whole.put)
        state = whole.taken()
        with self._lock:
            self._hot.keep((info.session_id, info.level), info.number, state)
        return info, state

    def restore(self, prefix: str, put: Put, at_rest: bool = False) -> CheckpointInfo:
        """The same into whatever takes its pieces, which come in no order. ``at_rest``: from the disk, also if the
        state is in memory. CheckpointCorruptError may come when most of it was put, as an OSError of ``put`` may."""
        waits = nullcontext() if at_rest else self._upkeep.precedence.restoring()
        with waits, self._source(prefix, at_rest) as (info, source):
            if isinstance(source, Plan):
                self._assembler.put(source, put, self._copies.saved_again)
            else:
                for number, piece in enumerate(_pieces(source)):
                    put(number * PIECE_BYTES, piece)
        return info

    @contextmanager
    def reading(self, prefix: str) -> Iterator[tuple[CheckpointInfo, Iterator[memoryview]]]:
        """The same in order, for as long as the reader likes. CheckpointCorruptError may come in the middle."""
        with self._source(prefix, at_rest=False) as (info, source):
            if isinstance(source, Plan):
                yield info, self._assembler.pieces(source, self._copies.saved_again)
            else:
                yield info, _pieces(source)

    @contextmanager
    def _source(self, prefix: str, at_rest: bool) -> Iterator[tuple[CheckpointInfo, memoryview | Plan]]:
        """The state, verified, if it is in memory; else where it lies. What is read here is not deleted meanwhile."""
        with self._lock:
            info = self.find(prefix)
            hot = None if at_rest else self._hot.pin(info.number)
            chunks = self._newest.get(info.number) if hot is not None else None
        try:
            if hot is not None and chunks is not None and is_right(hot, chunks.cut):
                yield info, hot
                return
        finally:
            if hot is not None:
                with self._lock:
                    self._hot.unpin(info.number, hot)
        with self._lock:
            info = self.find(info.checkpoint_id)  # or it was deleted meanwhile, and what it needs with it
            plan = plan_of(self._catalog, info, at_rest)
            held = self._upkeep.hold(plan)
        try:
            yield info, plan
        finally:
            with self._lock:
                self._upkeep.release(held)
                self._catalog.forget(plan.damaged)

    def find(self, prefix: str) -> CheckpointInfo:
        """The checkpoint with this id or tag, or the only one whose id begins like this."""
        with self._lock:
            prefix = self.tags.id_of(prefix) or prefix
            number = number_of(prefix)
            if number is None or number not in self._catalog.packs or not self._catalog.packs[number].is_live:
                packs = self._catalog.packs.items()
                matching = [n for n, pack in packs if pack.is_live and checkpoint_id(n).startswith(prefix)]
                if not matching:
                    raise CheckpointNotFoundError(checkpoint_id=prefix)
                if len(matching) > 1:
                    raise CheckpointAmbiguousError(checkpoint_id=prefix, count=len(matching))
                (number,) = matching
            pack = self._catalog.packs[number]
            if pack.info is None:
                raise CheckpointCorruptError(checkpoint_id=checkpoint_id(number), problem=pack.problem)
            return pack.info

    def checkpoints(self, session_id: str = "") -> list[CheckpointInfo]:
        """Readable checkpoints, newest first; of every session if none is named. Waits for nobody, so the event loop
        may ask; nor do ``latest`` and ``unreadable``."""
        infos = [pack.info for _, pack in self._catalog.all() if pack.info is not None]
        chosen = [info for info in infos if session_id in ("", info.session_id)]
        return sorted(chosen, key=lambda info: info.number, reverse=True)

    def latest(self, session_id: str) -> CheckpointInfo:
        """The newest readable one; its chunks are not checked here."""
        info = self._catalog.latest(session_id)
        if info is None:
            raise CheckpointNotFoundError(checkpoint_id=f"of session {session_id}")
        return info

    def unreadable(self, session_id: str = "") -> list[Verdict]:
        """Checkpoints whose own record is damaged, newest first; one of unknown session counts for every session."""
        return [
            Verdict(checkpoint_id(number), False, f"Checkpoint {checkpoint_id(number)} is damaged: {pack.problem}.")
            for number, pack in sorted(self._catalog.all(), reverse=True)
            if pack.is_live and pack.info is None and (not session_id or pack.session_id in ("", session_id))
        ]

    def verify(self, prefix: str) -> Verdict:
        """Read and check all of one checkpoint."""
        try:
            info = self.restore(prefix, lambda _at, _piece: None, at_rest=True)
        except CheckpointCorruptError as error:
            return Verdict(str(error.fields["checkpoint_id"]), False, error.sentence)
        except ColdAwayError as error:
            return Verdict(self.find(prefix).checkpoint_id, False, error.sentence, unknown=True)
        return Verdict(info.checkpoint_id, True, "")

    def verify_all(self, session_id: str = "") -> list[Verdict]:
        """Read and check every checkpoint, newest first."""
        verdicts = list[Verdict]()
        for info in self.checkpoints(session_id):
            with suppress(CheckpointNotFoundError):  # deleted meanwhile
                verdicts.append(self.verify(info.checkpoint_id))
        return sorted(verdicts + self.unreadable(session_id), key=lambda verdict: verdict.checkpoint_id, reverse=True)

    def tag(self, prefix: str, name: str) -> CheckpointInfo:
        """Give a checkpoint a name; it is never deleted as long as it has one. Durable on return."""
        with self._lock:
            info = self.find(prefix)
            self.tags.tag(info.number, name)
            return info

    def names(self) -> dict[int, list[str]]:
        """The tags of each checkpoint that has any, by its number; none while they cannot be read."""
        return self.tags.names()  # without the lock: the event loop asks, and a save may hold it for long

    def untag(self, name: str) -> int:
        """Take the name away; the number of the checkpoint that had it. Durable on return. Raises TagNotFoundError."""
        with self._lock:
            return self.tags.untag(name)

    def ruins(self) -> list[Ruin]:
        """Checkpoints whose own record is damaged for good."""
        with self._lock:
            return self._catalog.ruins()

    def delete(self, doomed: Sequence[int]) -> str:
        """Delete the checkpoints with these numbers, and every chunk that nobody needs any more; one sentence."""
        said = self._upkeep.delete(doomed)
        with self._lock:
            for number in doomed:
                self._hot.forget(number)
        return said

    def disk_bytes(self) -> int:
        """What all packs take."""
        return self._catalog.size_bytes

    def disk_files(self) -> int:
        """How many packs there are."""
        return len(self._catalog.packs)

    def tighten(self, most_bytes: int = TIGHTEN_BYTES, dead_share: float = DEAD_SHARE, may_wait: bool = False) -> str:
        """Pack old packs tighter, until about so many bytes were read; one sentence, "" if there was nothing to do."""
        return self._upkeep.tighten(most_bytes, dead_share, may_wait)

    @property
    def is_ending(self) -> bool:
        """Was upkeep told to end soon?"""
        return self._upkeep.is_ending

    def hurry(self) -> None:
        """Let upkeep that is under way end soon; it goes on after the next start."""
        self._upkeep.end()

    def close(self) -> None:
        """Everything acknowledged is durable already."""
        self._packer.close()
        self._filler.shutdown()

    def _save(
        self,
        subject: Subject,
        base: ChunkList,
        found: Iterable[Found],
        root: bytes | None,
        check: Check | None,
        ahead: Ahead | None = None,
    ) -> CheckpointInfo:
        """Find a place for every chunk, write those that have none. root: what the client says it is."""
        number = self._catalog.next_number()
        path = self._catalog.path_of(number)
        try:
            pack = self._packer.begin(number, subject.session_id, ahead)
            try:
                chunks = placed(base, found, self._catalog.places, number, pack)
                own_root = root_of(chunks.cut.digests)
                if root not in (None, own_root):
                    raise UnusableStateError(problem="its chunks do not make up the state that the client has")
                known = self._catalog.same(subject.session_id, subject.level, subject.sequence, own_root)
                if known is None:
                    draft = CheckpointInfo(
                        number, subject.session_id, subject.level, subject.sequence, subject.now_unix_nanos,
                        chunks.cut.starts[-1], 0, own_root, subject.label,
                    )  # fmt: skip
                    info = pack.finish(draft, chunks.runs, check)
            except BaseException:
                pack.undo()
                raise
            if known is not None:
                pack.undo()
                return known
        except ShorterError:
            raise UnusableStateError(problem="its file became shorter while it was read") from None
        except OSError as error:
            raise disk_error(error, f"a checkpoint of session {subject.session_id}", path.parent) from error
        self._catalog.add(path, info, pack.groups)
        self._newest.put(number, chunks)
        return info


def _pieces(state: memoryview) -> Iterator[memoryview]:
    return (state[at : at + PIECE_BYTES] for at in range(0, len(state), PIECE_BYTES))
