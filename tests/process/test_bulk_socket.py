"""The bulk socket of a real checkpointd: states in and out by what changed, whoever dies in between."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from selfware_common.rpc import checkpoint_pb2 as pb
from selfware_common.state import saving, wire
from selfware_common.state.saving import Saver, SavingError
from tests.process.test_checkpointd import Server, home

__all__ = ["home"]
SESSION = pb.LEVEL_SESSION


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    one = Server(home)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.end()


def bulk(home: Path) -> Path:
    return home / "run/checkpointd" / wire.BULK_SOCKET


def states(count: int) -> list[bytes]:
    chance, state, found = random.Random(1), random.Random(2).randbytes(3_000_000), []
    for _ in range(count):
        found.append(state)
        at = chance.randrange(len(state))
        state = state[:at] + chance.randbytes(100) + state[at:] + chance.randbytes(5000)
    return found


def test_each_state_comes_back_and_only_changes_are_stored(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    with Saver(bulk(home), "s") as saver:
        saved = [saver.save(epoch, SESSION, n, state, f"step {n}") for n, state in enumerate(states(6), 1)]
    assert saved[0].stored_bytes > 3_000_000
    assert all(one.stored_bytes < 200_000 for one in saved[1:])
    for one, state in zip(saved, states(6), strict=True):
        info, body = saving.get(bulk(home), one.checkpoint_id)
        assert (info, bytes(body)) == (one, state)
    assert server.recover()[1] == states(6)[-1], "and by gRPC it is the same"


def test_a_saver_goes_on_after_checkpointd_was_killed(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    with Saver(bulk(home), "s") as saver:
        for n, state in enumerate(states(3), 1):
            saver.save(epoch, SESSION, n, state)
            server.end()
            with pytest.raises(SavingError, match="Cannot reach checkpointd") as caught:
                saver.save(epoch, SESSION, n + 1, state)
            assert caught.value.status == "UNAVAILABLE"
            server = Server(home)
            epoch = server.open().epoch
        last = saver.save(epoch, SESSION, 9, states(4)[-1])
    assert last.stored_bytes < 200_000, "the index is rebuilt, so only the change is stored"
    assert bytes(saving.get(bulk(home), last.checkpoint_id)[1]) == states(4)[-1]
    server.end()


def test_the_base_may_be_gone(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    with Saver(bulk(home), "s") as saver:
        saver.save(epoch, SESSION, 1, states(1)[0])
        saver._base = "ckpt-00000077"
        info = saver.save(epoch, SESSION, 2, states(2)[1])
    assert bytes(saving.get(bulk(home), info.checkpoint_id)[1]) == states(2)[1]


def test_a_large_state_comes_in_without_being_in_memory_at_once(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    state = random.Random(3).randbytes(1 << 20) * 150 + b"the end"
    with Saver(bulk(home), "s") as saver:
        info = saver.save(epoch, SESSION, 1, state)
    assert bytes(saving.get(bulk(home), info.checkpoint_id)[1]) == state
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < 150 << 20


def test_a_program_that_keeps_nothing_saves_a_file_and_gets_it_back(home: Path, server: Server, tmp_path: Path) -> None:
    epoch = server.open().epoch
    file = os.open(tmp_path / "state", os.O_RDWR | os.O_CREAT)
    for n, state in enumerate(states(3), 1):
        os.pwrite(file, state, 0)
        info = saving.put_file(bulk(home), "s", epoch, SESSION, n, file, "by file")
        assert n == 1 or info.stored_bytes < 200_000
    os.pwrite(file, b"something else, and longer" * 200_000, 0)
    assert saving.get_file(bulk(home), info.checkpoint_id, file) == info
    assert (tmp_path / "state").read_bytes() == states(3)[-1]


def test_a_state_is_not_written_into_what_cannot_take_pieces_in_no_order(
    home: Path, server: Server, tmp_path: Path
) -> None:
    with Saver(bulk(home), "s") as saver:
        info = saver.save(server.open().epoch, SESSION, 1, states(1)[0])
        appended, pipe = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.pipe()
        for file in (appended, pipe[1]):
            with pytest.raises(SavingError, match="its pieces come in no order") as caught:
                saving.get_file(bulk(home), info.checkpoint_id, file)
            assert caught.value.status == "INVALID_ARGUMENT"
        assert (tmp_path / "file").read_bytes() == b""
        for file in (appended, *pipe):
            os.close(file)


def test_refusals_are_sentences(home: Path, server: Server, tmp_path: Path) -> None:
    epoch = server.open().epoch
    server.open()
    with Saver(bulk(home), "s") as saver, pytest.raises(SavingError, match="epoch 1 of session s is over") as caught:
        saver.save(epoch, SESSION, 1, b"state")
    assert caught.value.status == "ABORTED"
    with Saver(bulk(home), "s") as saver, pytest.raises(SavingError, match="must name a level"):
        saver.save(2, 77, 1, b"state")
    with pytest.raises(SavingError, match="There is no checkpoint ckpt-00000001"):
        saving.get(bulk(home), "ckpt-00000001")
    with pytest.raises(SavingError, match="is not a file"):
        saving.put_file(bulk(home), "s", 2, SESSION, 1, os.open(tmp_path, os.O_RDONLY))
    with pytest.raises(SavingError, match="There is no session t"):
        saving.put_file(bulk(home), "t", 1, SESSION, 1, os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT))


def test_a_state_above_the_quota_is_a_sentence(home: Path) -> None:
    config = home / "etc/selfware.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[resources.quotas]\nmax_checkpoint_size = 1000000\n")
    server = Server(home)
    epoch = server.open().epoch
    file = os.open(home / "big", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, bytes(1_000_001), 0)
    with Saver(bulk(home), "s") as saver:
        with pytest.raises(SavingError, match="more than 1000000 bytes"):
            saver.save(epoch, SESSION, 1, random.Random(1).randbytes(1_000_001))
        with pytest.raises(SavingError, match="more than 1000000 bytes"):
            saving.put_file(bulk(home), "s", epoch, SESSION, 1, file)
        assert saver.save(epoch, SESSION, 1, b"small").state_bytes == 5
    server.end()


def test_a_polite_stop_answers_what_was_asked(home: Path, server: Server) -> None:
    epoch = server.open().epoch
    state = random.Random(1).randbytes(20_000_000)
    with Saver(bulk(home), "s") as saver, ThreadPoolExecutor(1) as other:
        saver.save(epoch, SESSION, 1, b"connected")
        saving_it = other.submit(saver.save, epoch, SESSION, 2, state)
        time.sleep(0.06)
        errors = server.end(signal.SIGTERM)
        try:
            kept = saving_it.result(20).sequence
        except SavingError:
            kept = 1  # it had not arrived when the stop came
    assert "Traceback" not in errors
    again = Server(home)
    again.open()
    assert again.stub.Latest(pb.LatestRequest(session_id="s"), timeout=20).sequence == kept
    again.end()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        wire.LENGTH.pack(2) + b"{}",
        wire.LENGTH.pack(30) + b'{"call": "save", "body": 3}   abc',
        wire.LENGTH.pack(30) + b'{"call": "rm", "body": 0}     ',
        wire.LENGTH.pack(30) + b'{"call": "get", "body": -1}   ',
        wire.LENGTH.pack(30) + b'{"call": "get", "body": 9e99}  ',
        wire.LENGTH.pack(60) + b'{"call": "save"',
    ],
)
def test_what_is_no_message_ends_only_its_connection(home: Path, server: Server, said: bytes) -> None:
    epoch = server.open().epoch
    with closing(saving.connect(bulk(home))) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
    with Saver(bulk(home), "s") as saver:
        assert saver.save(epoch, SESSION, 1, b"fine").state_bytes == 4
    assert "Traceback" not in server.end()


def early(connection: wire.Connection, chunks: list[bytes]) -> None:
    wire.send(connection, {"call": "early", "lengths": [len(chunk) for chunk in chunks]}, chunks)


def test_what_is_appended_comes_before_the_rest_is_compared(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if checkpointd forgets it, because it was restarted in between: then everything is sent."""
    heads: list[dict[str, object]] = []
    send = wire.send

    def noted(connection: wire.Connection, head: dict[str, object], *rest: object, **more: object) -> None:
        heads.append(head)
        send(connection, head, *rest, **more)  # type: ignore[arg-type]
        if head["call"] == "early" and head["lengths"] and saved.sequence == 3:
            nonlocal server
            server.end()
            server = Server(home)
            server.open("other")  # now it is there

    monkeypatch.setattr(wire, "send", noted)
    epoch, state = server.open().epoch, random.Random(3).randbytes(3_000_000)
    with Saver(bulk(home), "s") as saver:
        for n in range(1, 5):
            state = b"head %d" % n + state + random.Random(n).randbytes(300_000)
            saved = saver.save(epoch, SESSION, n, state)
            assert bytes(saving.get(bulk(home), saved.checkpoint_id)[1]) == state
    calls = [(head["call"], bool(head.get("early"))) for head in heads if head["call"] != "get"]
    assert calls == [("save", False), *[("early", False), ("save", True)] * 3, ("save", False)]
    server.end()


def test_what_came_early_is_dropped_unless_the_next_call_wants_it(home: Path, server: Server) -> None:
    server.open()
    head = {
        "call": "save", "session_id": "s", "epoch": 1, "level": 3, "sequence": 1, "label": "", "base": "", "root": "00",
        "spans": [[-1, 2]], "lengths": [],
    }  # fmt: skip
    with closing(saving.connect(bulk(home))) as connection:
        early(connection, [b"one", b"two"])
        early(connection, [b"three"])
        wire.send(connection, {**head, "early": 2})
        refused, _ = wire.receive(connection) or ({}, -1)
        assert "2 of its chunks came early, it says, and 1 did" in refused["error"]
        early(connection, [b"one", b"two"])
        wire.send(connection, {"call": "get", "checkpoint_id": "none"}, file=0)
        wire.receive(connection)
        wire.send(connection, {**head, "early": 2})
        refused, _ = wire.receive(connection) or ({}, -1)
        assert "2 of its chunks came early, it says, and 0 did" in refused["error"]
    for wrong in ([b"", b"two"], [b"x" * 70_000]):
        with closing(saving.connect(bulk(home))) as connection, contextlib.suppress(ConnectionResetError):
            early(connection, wrong)
            assert connection.recv(1) == b"", "that is no message: the connection ends"
