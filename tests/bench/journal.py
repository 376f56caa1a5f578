"""Benchmark: how long until one event is durable, and how many become durable per second.

Interleaved, one operation each per round: our journal in this process, our journal through gRPC in its own process,
a bare write + fdatasync of as many bytes, one INSERT committed by SQLite (WAL, synchronous=FULL). All files lie on
the same disk. A gRPC call that does nothing is timed too: what the wire alone costs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import time
from pathlib import Path

from selfware_checkpointd.group_commit import GroupCommitter
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.segment import Record, encode_record
from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.bench.common import line, median, percentile, say, timed
from tests.bench.served import Checkpointd
from tests.rig import temporary_home

KIND = "ActionFinished"


def record(sequence: int, payload: bytes, epoch: int = 1) -> Record:
    return Record(epoch, sequence, time.time_ns(), KIND, payload)


async def latencies(base: Path, rounds: int, payload: bytes) -> None:
    """One writer: the time of one durable append."""
    size = len(encode_record(record(1, payload), 0))
    times: dict[str, list[float]] = {"bare": [], "sqlite": [], "journal": [], "grpc": [], "empty call": []}
    bare = os.open(base / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    database = sqlite3.connect(base / "sqlite.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, kind TEXT, time INTEGER, payload BLOB)")
    journal = Journal(base / "journal", "bench")
    with Checkpointd(base / "daemon") as daemon:
        channel = clients.channel(daemon.socket)
        stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        epoch = daemon.open("bench").epoch

        def append_bare() -> None:
            os.write(bare, os.urandom(1) * size)
            os.fdatasync(bare)

        for number in range(1, rounds + 1):
            times["bare"].append(timed(append_bare))
            row = (number, KIND, time.time_ns(), payload)
            times["sqlite"].append(timed(lambda row=row: database.execute("INSERT INTO events VALUES (?,?,?,?)", row)))
            one = record(number, payload)
            times["journal"].append(timed(lambda one=one: journal.append([one])))
            times["grpc"].append(await _over_grpc(stub, epoch, number, payload))
            begin = time.perf_counter()
            await stub.List(pb.ListRequest(session_id="none"), timeout=30)
            times["empty call"].append(time.perf_counter() - begin)
            if number % 200 == 0:
                say(f"{number} rounds: " + ", ".join(f"{k} {median(v) * 1e3:.3f} ms" for k, v in times.items()))
        await channel.close()
    journal.close()
    database.close()
    os.close(bare)
    line("journal", "empty_call_seconds_grpc", "s", median(times["empty call"]), n=rounds)
    for metric, own in (("append_durable_seconds", "journal"), ("append_durable_seconds_grpc", "grpc")):
        for peer, theirs in (("append+fdatasync", "bare"), ("sqlite", "sqlite")):
            mine, other = times[own], times[theirs]
            line("journal", metric, "s", median(mine), peer=peer, peer_value=median(other), n=rounds)
            p99 = percentile(other, 0.99)
            line("journal", f"{metric}_p99", "s", percentile(mine, 0.99), peer=peer, peer_value=p99, n=rounds)


async def _over_grpc(stub: checkpoint_pb2_grpc.CheckpointStub, epoch: int, sequence: int, payload: bytes) -> float:
    event = pb.Event(sequence=sequence, kind=KIND, payload=payload, time_unix_nanos=time.time_ns())
    begin = time.perf_counter()
    await stub.Append(pb.AppendRequest(session_id="bench", epoch=epoch, events=[event]), timeout=30)
    return time.perf_counter() - begin


async def rate_over_grpc(base: Path, writers: int, seconds: float, payload: bytes) -> None:
    """Many writers at once, each with a session of its own: a session has one writer by design."""
    with Checkpointd(base / "many") as daemon:
        channel = clients.channel(daemon.socket)
        stub = checkpoint_pb2_grpc.CheckpointStub(channel)
        epochs = [daemon.open(f"writer-{number}").epoch for number in range(writers)]
        end = time.perf_counter() + seconds

        async def write(number: int) -> int:
            sequence = 0
            while time.perf_counter() < end:
                sequence += 1
                event = pb.Event(sequence=sequence, kind=KIND, payload=payload, time_unix_nanos=time.time_ns())
                request = pb.AppendRequest(session_id=f"writer-{number}", epoch=epochs[number], events=[event])
                await stub.Append(request, timeout=30)
            return sequence

        begin = time.perf_counter()
        done = sum(await asyncio.gather(*(write(number) for number in range(writers))))
        spent = time.perf_counter() - begin
        await channel.close()
    line("journal", f"appends_per_second_{writers}", "1/s", done / spent, n=done)


async def rate_in_process(base: Path, submitters: int, seconds: float, payload: bytes) -> None:
    """Many coroutines, one journal, group commit; no wire."""
    journal = Journal(base / "group", "bench")
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
    line("journal", f"appends_per_second_{submitters}_inprocess", "1/s", done / spent, n=done)


async def main(rounds: int, seconds: float, payload_bytes: int) -> None:
    payload = (b'{"task_id": "bench", "output": "' + b"what a command printed " * payload_bytes)[:payload_bytes]
    async with temporary_home() as base:
        await latencies(base, rounds, payload)
        await rate_over_grpc(base, 32, seconds, payload)
        await rate_in_process(base, 64, seconds, payload)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make bench BENCH=journal", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000, help="durable appends of each kind, one after the other")
    parser.add_argument("--seconds", type=float, default=5, help="how long each rate is measured")
    parser.add_argument("--payload-bytes", type=int, default=512, help="size of one event")
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.seconds, given.payload_bytes))
