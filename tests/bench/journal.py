"""Benchmark: how long until one event is durable, and how many become durable per second.

Interleaved, one operation each per round: our journal in this process, our journal through gRPC in its own process
(a call, and a message on a stream that stays open), a bare write + fdatasync of as many bytes, one INSERT committed by
SQLite (WAL, synchronous=FULL). All files lie on the same disk. A gRPC call that does nothing is timed too: what the
wire alone costs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from selfware_checkpointd.group_commit import GroupCommitter
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.segment import Record, encode_record
from selfware_checkpointd.vault import NO_VAULT, Vault
from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.bench import writers
from tests.bench.common import line, median, percentile, say, stopwatch
from tests.bench.served import Checkpointd
from tests.rig import temporary_home


def record(sequence: int, payload: bytes, epoch: int = 1) -> Record:
    return Record(epoch, sequence, time.time_ns(), writers.KIND, payload)


async def latencies(base: Path, rounds: int, payload: bytes) -> None:
    """One writer: the time of one durable append."""
    times: dict[str, list[float]] = defaultdict(list)
    bare, database, journal = Bare(base / "bare", payload), Database(base / "sqlite.db"), Journal(base / "journal", "j")
    encrypted = Journal(base / "encrypted", "j", vault=Vault([os.urandom(32)]))
    with Checkpointd(base / "daemon") as daemon:
        channel = clients.channel(daemon.socket)
        stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        epochs = {session_id: daemon.open(session_id).epoch for session_id in ("calls", "stream")}
        stream = stub.AppendStream()

        def request(session_id: str, number: int) -> pb.AppendRequest:
            events = [writers.event(number, payload)]
            return pb.AppendRequest(session_id=session_id, epoch=epochs[session_id], events=events)

        async def call(number: int) -> None:
            await stub.Append(request("calls", number), timeout=30)

        async def message(number: int) -> None:
            await stream.write(request("stream", number))
            await stream.read()

        async def nothing(_: int) -> None:
            await stub.List(pb.ListRequest(session_id="none"), timeout=30)

        ways: list[tuple[str, Callable[[int], Awaitable[None] | None]]] = [
            ("bare", bare.append),
            ("journal", lambda number: journal.append([record(number, payload)])),
            ("encrypted", lambda number: encrypted.append([record(number, payload)])),
            ("sqlite", lambda number: database.append(number, payload)),
            ("grpc", call),
            ("stream", message),
            ("empty call", nothing),
        ]
        for number in range(1, rounds + 1):
            for name, way in ways:
                with stopwatch(times[name]):
                    if (going := way(number)) is not None:
                        await going
            ways.append(ways.pop(0))  # each follows each other one equally often: what a sync leaves behind is shared
            if number % 200 == 0:
                say(f"{number} rounds: " + ", ".join(f"{k} {median(v) * 1e3:.3f} ms" for k, v in times.items()))
        await stream.done_writing()
        await channel.close()
    for open_file in (journal, encrypted, database, bare):
        open_file.close()
    _print_latencies(times, rounds)


class Bare:
    """The least that is durable: as many bytes, one write, one fdatasync."""

    def __init__(self, path: Path, payload: bytes) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._bytes = b"x" * len(encode_record(record(1, payload), 0))

    def append(self, _: int) -> None:
        os.write(self._file, self._bytes)
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class Database:
    """One row, one commit."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, kind TEXT, time INTEGER, data BLOB)")

    def append(self, number: int, payload: bytes) -> None:
        row = (number, writers.KIND, time.time_ns(), payload)
        self._database.execute("INSERT INTO events VALUES (?,?,?,?)", row)

    def close(self) -> None:
        self._database.close()


def _print_latencies(times: dict[str, list[float]], rounds: int) -> None:
    line("journal", "empty_call_seconds_grpc", "s", median(times["empty call"]), n=rounds)
    for suffix, own in (("", "journal"), ("_encrypted", "encrypted"), ("_grpc", "grpc"), ("_grpc_stream", "stream")):
        metric = f"append_durable_seconds{suffix}"
        for peer, theirs in (("append+fdatasync", "bare"), ("sqlite", "sqlite")):
            mine, other = times[own], times[theirs]
            line("journal", metric, "s", median(mine), peer=peer, peer_value=median(other), n=rounds)
            p99 = percentile(other, 0.99)
            line("journal", f"{metric}_p99", "s", percentile(mine, 0.99), peer=peer, peer_value=p99, n=rounds)


def encoding(payload: bytes, count: int = 50_000) -> None:
    """What one event costs before it is written, in processor time: that of this thread, whoever else works."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(5):
        for is_encrypted in times:
            box = JournalKeys("bench", Vault([os.urandom(32)])).for_segment(1) if is_encrypted else None
            begin = time.thread_time()
            for number in range(count):
                encode_record(record(number, payload), 24, box)
            times[is_encrypted].append((time.thread_time() - begin) / count)
    plain, sealed = (median(times[is_encrypted]) for is_encrypted in (False, True))
    line("journal", "encode_seconds_encrypted", "s", sealed, peer="not encrypted", peer_value=plain, n=5 * count)


async def rates_over_grpc(base: Path, count: int, seconds: float, payload: bytes) -> None:
    """Many writers at once: a session and a stream each, a session each and a call for each event, one session."""
    for suffix, way in (("", writers.streams), ("_unary", writers.calls), ("_shared", writers.shared)):
        rate, done = await writers.per_second(base / way.__name__, way, count, seconds, payload)
        line("journal", f"appends_per_second_{count}{suffix}", "1/s", rate, n=done)


async def rate_in_process(base: Path, submitters: int, seconds: float, payload: bytes, is_encrypted: bool) -> None:
    """Many coroutines, one journal, group commit; no wire."""
    suffix = "_encrypted" if is_encrypted else ""
    journal = Journal(base / f"group{suffix}", "bench", vault=Vault([os.urandom(32)]) if is_encrypted else NO_VAULT)
    door = GroupCommitter(journal)
    end = time.perf_counter() + seconds
    done = 0

    async def submit() -> None:
        nonlocal done
        while time.perf_counter() < end:
            done += 1
            await door.submit([record(done, payload)])

    begin = time.perf_counter()
    await asyncio.gather(*(submit() for _ in range(submitters)))
    spent = time.perf_counter() - begin
    await door.close()
    journal.close()
    line("journal", f"records_per_second_{submitters}{suffix}", "1/s", done / spent, n=done)


async def main(rounds: int, seconds: float, payload_bytes: int) -> None:
    payload = (b'{"task_id": "bench", "output": "' + b"what a command printed " * payload_bytes)[:payload_bytes]
    async with temporary_home() as base:
        encoding(payload)
        await latencies(base, rounds, payload)
        await rates_over_grpc(base, 32, seconds, payload)
        for is_encrypted in (False, True):
            await rate_in_process(base, 64, seconds, payload, is_encrypted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench BENCH=journal", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000, help="durable appends of each kind, one after the other")
    parser.add_argument("--seconds", type=float, default=5, help="how long each rate is measured")
    parser.add_argument("--payload-bytes", type=int, default=512, help="size of one event")
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.seconds, given.payload_bytes))
