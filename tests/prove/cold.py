"""Proof: packs move to a real S3 store, and whoever is killed while they do, nothing is lost and nothing is left over.

Rounds of: save states of several sessions, begin to move what may go, and kill the store, checkpointd, or both in the
middle, chosen by the seed. While the store is away, the newest checkpoint of each session must load and every other
one must load or be refused with an error that passes, never as damaged. When all is back every checkpoint must restore
byte for byte. At the end the store must hold exactly the objects that the stubs name, and none after all is deleted.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from blake3 import blake3

from selfware_checkpointd import coldstub
from selfware_checkpointd.coldstore import Where, open_store
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.retention import newest_only, retain
from selfware_checkpointd.store import Store
from selfware_checkpointd.tiering import ColdPolicy
from selfware_common import clients, paths
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc
from tests.prove.common import Verdict, arguments, report, say
from tests.prove.s3_server import BUCKET, KEYS, S3Server

PREFIX = "boxes/one"
SESSIONS = ("alpha", "beta")
STATE_BYTES = (200_000, 20_000_000)
PIECE = 1024 * 1024
ALL_BYTES = 1 << 62


@dataclass
class Counts:
    """What happened, for the log and the verdict."""

    kills: int = 0
    in_the_middle: int = 0  # of these, while a copy had begun and was not believed yet
    refused: int = 0  # loads while the store was away, refused in words
    lost: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)


class Box:
    """checkpointd as a real process with a cold tier, and what it acknowledged."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self._home = home
        where = paths.foreground(home)
        where.config.mkdir(parents=True, exist_ok=True)
        self.checkpoints = where.state_of("checkpointd") / "checkpoints"
        where.config_file.write_text(
            f'[checkpoint.cold]\nurl = "s3://{BUCKET}/{PREFIX}"\nendpoint = "{endpoint}"\n'
            "after_seconds = 0.0\nkeep_local_bytes = 30000000\n"
        )
        self.hashes: dict[str, bytes] = {}
        self.newest: dict[str, str] = {}
        self._sequence = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Serving on return; every session is opened anew."""
        with (self._home / "checkpointd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selfware_checkpointd"],
                env={**os.environ, **KEYS, "SELFWARE_HOME": str(self._home)},
                stderr=log,
            )
        self._channel = clients.sync_channel(self._home / "run/checkpointd/api.sock")
        self.stub = checkpoint_pb2_grpc.CheckpointStub(self._channel)
        self._epochs = {}
        for session in SESSIONS:
            request = pb.OpenSessionRequest(session_id=session, writer_id="proof")
            self._epochs[session] = self.stub.OpenSession(request, timeout=60, wait_for_ready=True).epoch

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal and wait."""
        self._channel.close()
        if self._process is not None:
            os.kill(self._process.pid, number)
            self._process.wait()

    def save(self, session: str, state: bytes) -> None:
        """An acknowledged save is remembered."""
        self._sequence += 1
        header = pb.SaveHeader(
            session_id=session,
            epoch=self._epochs[session],
            level=pb.LEVEL_SESSION,
            sequence=self._sequence,
            state_bytes=len(state),
            state_hash=blake3(state).digest(),
        )
        parts = [pb.SaveRequest(header=header)]
        parts += [pb.SaveRequest(data=state[at : at + PIECE]) for at in range(0, len(state), PIECE)]
        name = self.stub.Save(iter(parts), timeout=60).checkpoint_id
        self.hashes[name], self.newest[session] = blake3(state).digest(), name

    def load(self, name: str) -> bytes:
        """The hash of what comes."""
        whole = blake3()
        for reply in self.stub.Load(pb.LoadRequest(checkpoint_id=name), timeout=60):
            whole.update(reply.data)
        return whole.digest()

    def move(self) -> None:
        """Until it is done, or killed."""
        with contextlib.suppress(grpc.RpcError):
            self.stub.Maintain(pb.MaintainRequest(), timeout=300)

    def is_copying(self) -> bool:
        """Has a copy begun that is not believed yet?"""
        return any(self.checkpoints.glob("*" + coldstub.MOVING))


def one_round(box: Box, server: S3Server, chance: random.Random, counts: Counts) -> None:
    """Save, move, kill, look, bring back, look again."""
    if chance.random() < 0.5:
        box.move()  # to the end, so that some lie in the store alone
    session = chance.choice(SESSIONS)
    for _ in range(2):  # two unrelated ones: the second needs nothing of the first, which may go then
        box.save(session, chance.randbytes(chance.randint(*STATE_BYTES)))
    mover = threading.Thread(target=box.move)
    mover.start()
    deadline = time.monotonic() + 10
    while mover.is_alive() and not box.is_copying() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(chance.random() * 0.4)
    counts.in_the_middle += box.is_copying()
    victim = chance.choice(("store", "checkpointd", "both"))
    if victim != "checkpointd":
        server.kill()
        counts.kills += 1
    if victim != "store":
        box.end()
        counts.kills += 1
    mover.join()
    if victim == "both":
        box.start()
    if victim != "checkpointd":
        look_while_away(box, counts)
        server.start()
    else:
        box.start()
    look(box, counts)


def look_while_away(box: Box, counts: Counts) -> None:
    """The newest of each session loads; nothing is called damaged."""
    for name, digest in box.hashes.items():
        try:
            if box.load(name) != digest:
                counts.lost.append(f"{name} has other bytes while the store is away")
        except grpc.RpcError as error:
            counts.refused += 1
            said = f"{error.code().name} {error.details()}"
            if error.code() is not grpc.StatusCode.UNAVAILABLE or "cold store" not in said:
                counts.lost.append(f"{name} while the store is away: {said}")
            if name in box.newest.values():
                counts.lost.append(f"{name}, the newest of its session, needs the store: {said}")


def look(box: Box, counts: Counts) -> None:
    """Everything acknowledged restores byte for byte."""
    for name, digest in box.hashes.items():
        try:
            if box.load(name) != digest:
                counts.lost.append(f"{name} has other bytes")
        except grpc.RpcError as error:
            counts.lost.append(f"{name}: {error.code().name} {error.details()}")
    listed = {info.checkpoint_id for info in box.stub.List(pb.ListRequest(), timeout=60).checkpoints}
    counts.lost += [f"{name} is not listed" for name in set(box.hashes) - listed]


def look_for_leftovers(box: Box, server: S3Server, counts: Counts) -> None:
    """With checkpointd stopped, by the plain product in this process: what lies there is what the stubs name."""
    where = Where("", f"s3://{BUCKET}/{PREFIX}", server.endpoint, "us-east-1")
    cold = open_store(where, Path("the proof"), KEYS)
    store = Store(box.checkpoints, cold=cold)
    policy = ColdPolicy(after_seconds=0.0, keep_local_bytes=0)
    for _ in range(3):
        store.tighten(ALL_BYTES)
        store.tiers.turn(policy, time.time_ns(), ALL_BYTES)
    counts.left_over += _differences(box, server)
    tiers = [store.tiers.tier_of(info.number)[0] for info in store.checkpoints()]
    say(f"{tiers.count('cold')} of {len(tiers)} checkpoints lie in the cold store alone")
    if tiers.count("cold") < len(tiers) - 2 * len(SESSIONS):
        counts.left_over.append(f"packs that should have moved stay here: {tiers}")
    retain(store, newest_only(dict.fromkeys(Level, 1)), time.time_ns())
    store.tiers.turn(policy, time.time_ns(), ALL_BYTES)
    counts.left_over += _differences(box, server)
    store.close()


def _differences(box: Box, server: S3Server) -> list[str]:
    stubs = [
        coldstub.read(path).stub for suffix in (".cold", ".cold-chunks") for path in box.checkpoints.glob("*" + suffix)
    ]
    named = {f"{PREFIX}/{stub.name_of(part)}" for stub in stubs for part in range(len(stub.part_hashes))}
    there = server.names()
    waiting = [path.name for suffix in (".moving", ".gone", ".tmp") for path in box.checkpoints.glob("*" + suffix)]
    return (
        [f"left over in the store: {name}" for name in there - named]
        + [f"missing in the store: {name}" for name in named - there]
        + [f"left over here: {name}" for name in waiting]
    )


def prove(rounds: int, seed: int) -> Verdict:
    """`rounds` kills of one or both sides."""
    chance, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory(prefix="sw-", dir="/var/tmp") as directory:
        server = S3Server(Path(directory) / "s3")
        server.start()
        box = Box(Path(directory) / "box", server.endpoint)
        try:
            for number in range(rounds):
                one_round(box, server, chance, counts)
                say(f"round {number + 1}: {len(box.hashes)} checkpoints, {counts}")
            box.end(signal.SIGTERM)
            look_for_leftovers(box, server, counts)
        finally:
            server.kill()
            if box._process is not None and box._process.poll() is None:
                box.end()
    for text in [*counts.lost, *counts.left_over][:100]:
        say(f"seed {seed}: {text}")
    say(f"{counts.kills} kills, {counts.in_the_middle} rounds in the middle of a copy, {counts.refused} loads refused")
    ok = not counts.lost and not counts.left_over
    return Verdict("cold", seed, rounds, counts.kills, len(counts.lost), len(counts.left_over), 0, ok)


if __name__ == "__main__":
    given = arguments("cold", rounds=30)
    sys.exit(report(prove(given.rounds, given.seed)))
