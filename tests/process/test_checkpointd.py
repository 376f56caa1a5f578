"""checkpointd as a real process over its real socket: durability, fencing, damage, recovery."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from blake3 import blake3

from selfware_common import clients
from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.rpc import checkpoint_pb2_grpc

PIECE = 1024 * 1024


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw-") as directory:
        yield Path(directory)


class Server:
    """One checkpointd process; the stub waits until it serves."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-m", "selfware_checkpointd"],
            env={**os.environ, "SELFWARE_HOME": str(home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.channel = clients.sync_channel(home / "run/checkpointd/api.sock")
        self.stub = checkpoint_pb2_grpc.CheckpointStub(self.channel)

    def end(self, number: int = signal.SIGKILL) -> str:
        self.channel.close()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return errors

    def open(self, session_id: str = "s") -> pb.OpenSessionReply:
        request = pb.OpenSessionRequest(session_id=session_id, writer_id="test")
        return self.stub.OpenSession(request, timeout=20, wait_for_ready=True)

    def append(self, epoch: int, first: int, *payloads: bytes) -> int:
        events = [pb.Event(sequence=first + n, kind="Test", payload=data) for n, data in enumerate(payloads)]
        return self.stub.Append(pb.AppendRequest(session_id="s", epoch=epoch, events=events), timeout=20).last_sequence

    def save(
        self, epoch: int, sequence: int, state: bytes, level: pb.Level.ValueType = pb.LEVEL_SESSION
    ) -> pb.CheckpointInfo:
        header = pb.SaveHeader(
            session_id="s",
            epoch=epoch,
            level=level,
            sequence=sequence,
            state_bytes=len(state),
            state_hash=blake3(state).digest(),
        )
        parts = [pb.SaveRequest(header=header)]
        parts += [pb.SaveRequest(data=state[at : at + PIECE]) for at in range(0, len(state), PIECE)]
        return self.stub.Save(iter(parts), timeout=60)

    def recover(self) -> tuple[pb.RecoverHeader, bytes, list[pb.Event]]:
        header, state, events = pb.RecoverHeader(), bytearray(), []
        for reply in self.stub.Recover(pb.RecoverRequest(session_id="s"), timeout=60, wait_for_ready=True):
            match reply.WhichOneof("part"):
                case "header":
                    header = reply.header
                case "data":
                    state += reply.data
                case "events":
                    events += reply.events.events
        return header, bytes(state), events


def test_what_was_acknowledged_is_there_after_kill_9(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    assert server.append(epoch, 1, b"one", b"two") == 2
    state = os.urandom(3 * PIECE + 17)
    info = server.save(epoch, 2, state)
    assert info.state_bytes == len(state)
    server.append(epoch, 3, b"three")
    server.end()
    server = Server(home)
    header, recovered, events = server.recover()
    assert header.checkpoint.checkpoint_id == info.checkpoint_id
    assert recovered == state
    assert [(event.sequence, event.payload) for event in events] == [(3, b"three")]
    assert server.recover() == (header, recovered, events)
    server.end()


def test_a_save_whose_stream_breaks_off_stores_nothing(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    server.append(epoch, 1, b"one")
    whole = b"x" * (2 * PIECE)
    header = pb.SaveHeader(
        session_id="s",
        epoch=epoch,
        level=pb.LEVEL_SESSION,
        sequence=1,
        state_bytes=len(whole),
        state_hash=blake3(whole).digest(),
    )
    for parts in ([], [pb.SaveRequest(data=whole[:PIECE])], [pb.SaveRequest(data=b"y" * len(whole))]):
        with pytest.raises(grpc.RpcError) as refused:
            server.stub.Save(iter([pb.SaveRequest(header=header), *parts]), timeout=20)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not server.stub.List(pb.ListRequest(), timeout=20).checkpoints
    server.end()


def test_an_append_repeated_after_a_lost_answer_is_acknowledged_once(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    server.append(epoch, 1, b"one")
    assert server.append(epoch, 1, b"one") == 1
    with pytest.raises(grpc.RpcError) as conflict:
        server.append(epoch, 1, b"other")
    assert conflict.value.code() == grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(grpc.RpcError) as gap:
        server.append(epoch, 3, b"three")
    assert gap.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    server.end()


def test_a_stale_writer_is_refused_even_after_a_restart(home: Path) -> None:
    server = Server(home)
    old = server.open().epoch
    server.append(old, 1, b"one")
    new = server.open().epoch
    server.end()
    server = Server(home)
    server.recover()
    for call in (lambda: server.append(old, 2, b"two"), lambda: server.save(old, 1, b"state")):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() == grpc.StatusCode.ABORTED
        assert f"epoch {old}" in refused.value.details()
    assert server.append(new, 2, b"two") == 2
    server.end()


def newest_pack(home: Path) -> Path:
    return sorted((home / "state/checkpointd/checkpoints").rglob("*.pack"))[-2]  # the last one is empty: the next


@pytest.mark.parametrize("damage", ["flipped byte", "missing pack"])
def test_a_damaged_newest_checkpoint_means_the_one_before_and_says_so(home: Path, damage: str) -> None:
    server = Server(home)
    epoch = server.open().epoch
    server.append(epoch, 1, b"one")
    first = server.save(epoch, 1, b"A" * 5000)
    server.append(epoch, 2, b"two")
    server.save(epoch, 2, os.urandom(5000))
    server.end()
    pack = newest_pack(home)
    if damage == "missing pack":
        pack.unlink()
    else:
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    server = Server(home)
    header, state, events = server.recover()
    assert header.checkpoint.checkpoint_id == first.checkpoint_id
    assert state == b"A" * 5000
    assert [event.payload for event in events] == [b"two"]
    if damage == "flipped byte":
        assert len(header.skipped) == 1
        assert "damaged" in header.skipped[0]
        verdicts = server.stub.Verify(pb.VerifyRequest(), timeout=20).verdicts
        assert [one.intact for one in verdicts].count(False) == 1
    server.end()


def test_a_torn_journal_tail_is_cut_and_said_and_work_goes_on(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    server.append(epoch, 1, b"one")
    server.append(epoch, 2, b"two")
    server.end()
    segment = sorted((home / "state/checkpointd/sessions/s/journal").glob("*.wal"))[-1]
    with segment.open("ab") as stream:
        stream.write(b"half a record")
    server = Server(home)
    assert server.open().last_sequence == 2
    assert server.append(server.open().epoch, 3, b"three") == 3
    assert [event.payload for event in server.recover()[2]] == [b"one", b"two", b"three"]
    assert "unfinished" in server.end(signal.SIGTERM)


def requests(epoch: int, *sequences: int, session_id: str = "s") -> Iterator[pb.AppendRequest]:
    for sequence in sequences:
        events = [pb.Event(sequence=sequence, kind="Test", payload=b"event %d" % sequence)]
        yield pb.AppendRequest(session_id=session_id, epoch=epoch, events=events)


def test_each_request_of_a_stream_is_answered_in_order_and_is_there_after_kill_9(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    replies = server.stub.AppendStream(requests(epoch, 1, 2, 3, 3, 4), timeout=20)
    assert [reply.last_sequence for reply in replies] == [1, 2, 3, 3, 4]
    server.end()
    server = Server(home)
    assert [event.payload for event in server.recover()[2]] == [b"event 1", b"event 2", b"event 3", b"event 4"]
    server.end()


def test_a_refusal_ends_the_stream_and_nothing_after_it_is_recorded(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    for sequences, code in (([1, 3, 2], "FAILED_PRECONDITION"), ([1, 0, 2], "FAILED_PRECONDITION")):
        replies, heard = server.stub.AppendStream(requests(epoch, *sequences), timeout=20), []
        with pytest.raises(grpc.RpcError) as refused:
            heard.extend(reply.last_sequence for reply in replies)
        assert heard == [1]
        assert refused.value.code().name == code
        assert "expects event 2 next" in refused.value.details()
    newer = server.open().epoch
    with pytest.raises(grpc.RpcError) as stale:
        list(server.stub.AppendStream(requests(epoch, 2), timeout=20))
    assert stale.value.code() == grpc.StatusCode.ABORTED
    assert [r.last_sequence for r in server.stub.AppendStream(requests(newer, 2), timeout=20)] == [2]
    assert [event.payload for event in server.recover()[2]] == [b"event 1", b"event 2"]
    server.end()


def test_a_writer_is_fenced_in_the_middle_of_its_stream(home: Path) -> None:
    server = Server(home)
    old = server.open().epoch
    go_on = threading.Event()

    def twice() -> Iterator[pb.AppendRequest]:
        yield from requests(old, 1)
        assert go_on.wait(20)
        yield from requests(old, 2)

    replies = server.stub.AppendStream(twice(), timeout=30)
    assert next(replies).last_sequence == 1
    server.open()
    go_on.set()
    with pytest.raises(grpc.RpcError) as refused:
        next(replies)
    assert refused.value.code() == grpc.StatusCode.ABORTED
    server.end()


def test_many_sessions_that_write_at_once_lose_nothing_to_kill_9(home: Path) -> None:
    server = Server(home)
    names = [f"s{number}" for number in range(12)]
    epochs = {name: server.open(name).epoch for name in names}
    acknowledged = dict.fromkeys(names, 0)
    enough = threading.Event()

    def write(name: str) -> None:
        with contextlib.suppress(grpc.RpcError):  # the kill
            for reply in server.stub.AppendStream(
                requests(epochs[name], *range(1, 1_000_000), session_id=name), timeout=60
            ):
                acknowledged[name] = reply.last_sequence
                if min(acknowledged.values()) >= 20:
                    enough.set()

    threads = [threading.Thread(target=write, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.process.kill()
    for thread in threads:
        thread.join(30)
    server.end()
    server = Server(home)
    for name in names:
        assert server.open(name).last_sequence >= acknowledged[name] >= 20
        read = [event.sequence for event in server.stub.ReadEvents(pb.ReadEventsRequest(session_id=name), timeout=30)]
        assert read == list(range(1, len(read) + 1))
    server.end()


def test_ten_thousand_events_come_back_whole_and_in_order(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    for first in range(1, 10_001, 1000):
        server.append(epoch, first, *(b"payload %d" % number for number in range(first, first + 1000)))
    server.end()
    server = Server(home)
    header, _, events = server.recover()
    assert header.last_sequence == 10_000
    assert [event.sequence for event in events] == list(range(1, 10_001))
    assert all(event.payload == b"payload %d" % event.sequence and event.epoch == epoch for event in events)
    server.end()


def test_a_follower_sees_new_events_as_they_land(home: Path) -> None:
    server = Server(home)
    epoch = server.open().epoch
    server.append(epoch, 1, b"one")
    stream = server.stub.ReadEvents(pb.ReadEventsRequest(session_id="s", follow=True), timeout=30)
    assert next(stream).payload == b"one"
    server.append(epoch, 2, b"two")
    assert next(stream).payload == b"two"
    stream.cancel()
    server.end()


def test_an_unknown_session_or_checkpoint_is_one_sentence(home: Path) -> None:
    server = Server(home)
    server.open()
    with pytest.raises(grpc.RpcError) as missing:
        list(server.stub.Recover(pb.RecoverRequest(session_id="nobody"), timeout=20))
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as bad:
        server.stub.OpenSession(pb.OpenSessionRequest(session_id="../x"), timeout=20)
    assert bad.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    server.end()


FULL_DISK = """
set -e
mount -t tmpfs -o size=3m tmpfs "$1"
exec "$2" "$3" "$1"
"""

FULL_DISK_CLIENT = """
import os, sys
from pathlib import Path
import grpc
sys.path.insert(0, {root!r})
from tests.process.test_checkpointd import Server
home = Path(sys.argv[1])
server = Server(home)
epoch = server.open().epoch
done, errors = 0, []
while not errors:
    try:
        server.append(epoch, done + 1, os.urandom(100_000)); done += 1
    except grpc.RpcError as error:
        errors.append((error.code().name, error.details()))
print(errors[0][0], errors[0][1])
server.end()
(home / "filler").write_bytes(b"")
server = Server(home)
assert len(server.recover()[2]) == done, "an acknowledged event is gone"
server.end()
print("kept", done)
"""


def test_a_full_disk_is_one_sentence_and_nothing_acknowledged_is_lost(home: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    client = tmp_path / "client.py"
    root = Path(__file__).resolve().parent.parent.parent
    client.write_text(FULL_DISK_CLIENT.format(root=str(root)))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FULL_DISK, "sh", str(home), sys.executable, str(client)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"no private mount namespace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("RESOURCE_EXHAUSTED No space left for")
    assert "kept" in done.stdout
