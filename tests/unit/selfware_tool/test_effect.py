"""What can be told from the files of an effect, and that they are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfware_tool import lock
from selfware_tool.effect import EffectPaths, EffectState, Result, boot_id, inspect, started_record
from selfware_tool.files import DamagedFileError, create_durably, read_sealed, seal, unseal

RESULT = Result(True, 1, 0, False, False, 1_000, 2_000_001_000, 10, 0, "exited with status 1")


def put(directory: Path, name: str, data: bytes) -> None:
    (directory / name).write_bytes(data)


def test_an_effect_without_files_has_not_started(tmp_path: Path) -> None:
    assert inspect(tmp_path).state is EffectState.NOT_STARTED


def test_a_held_lock_means_running_and_asking_does_not_take_it(tmp_path: Path) -> None:
    paths = EffectPaths(str(tmp_path))
    fd = lock.open_lock(paths.lock)
    assert lock.take(fd)
    assert inspect(tmp_path).state is EffectState.RUNNING
    other = lock.open_lock(paths.lock)
    assert not lock.take(other)
    os.close(fd)
    assert inspect(tmp_path).state is EffectState.NOT_STARTED
    assert lock.take(other)
    os.close(other)


def test_the_lock_forgets_an_earlier_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    put(tmp_path, "lock", b"4711")
    fd = lock.open_lock(path)
    assert lock.take(fd)
    assert lock.holder(path) is None
    lock.sign(fd)
    assert lock.holder(path) == os.getpid()
    os.close(fd)


def test_started_without_result_or_runner_is_unknown_and_says_why(tmp_path: Path) -> None:
    put(tmp_path, "started", started_record(1))
    status = inspect(tmp_path)
    assert status.state is EffectState.UNKNOWN
    assert "runner was killed" in status.sentence
    put(tmp_path, "started", started_record(1).replace(boot_id().encode(), b"0" * 36))
    assert "the machine stopped" in inspect(tmp_path).sentence
    put(tmp_path, "started", b"")
    assert inspect(tmp_path).state is EffectState.UNKNOWN


def test_a_result_is_the_answer_whatever_else_there_is(tmp_path: Path) -> None:
    put(tmp_path, "started", started_record(1))
    put(tmp_path, "result.json", RESULT.seal())
    status = inspect(tmp_path)
    assert (status.state, status.result, status.sentence) == (EffectState.DONE, RESULT, "exited with status 1")
    assert (RESULT.ok, RESULT.seconds) == (False, 2.0)


def test_every_flipped_byte_of_a_result_is_noticed(tmp_path: Path) -> None:
    whole = RESULT.seal()
    for position in range(len(whole) - 1):  # the line end carries nothing
        data = bytearray(whole)
        data[position] ^= 0x01
        put(tmp_path, "result.json", bytes(data))
        status = inspect(tmp_path)
        assert status.state is EffectState.UNKNOWN, position
        assert "damaged" in status.sentence


def test_the_format_of_a_sealed_file_is_pinned() -> None:
    assert seal("name/1", {"b": 1, "a": "ü"}) == (
        b'{"body":{"a":"\\u00fc","b":1},"crc32":2302418206,"format":"name/1"}\n'
    )


def test_another_format_is_refused() -> None:
    with pytest.raises(DamagedFileError):
        unseal("name/2", seal("name/1", {}), "path")


def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    assert create_durably(path, seal("name/1", {"n": 1}))
    assert not create_durably(path, seal("name/1", {"n": 2}))
    assert read_sealed("name/1", path) == {"n": 1}
