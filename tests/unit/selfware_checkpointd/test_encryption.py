"""What is promised of a store that is encrypted: nothing readable on the disk, and nothing lost for want of a key."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from zlib import crc32

import pytest
import zstandard
from blake3 import blake3

from selfware_checkpointd import sealed_segment
from selfware_checkpointd.coldstore import DirectoryStore
from selfware_checkpointd.errors import JournalCorruptError, KeyMissingError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.journal_keys import JournalKeys
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.pack_boxes import box_name
from selfware_checkpointd.packs import raw_of, read_index
from selfware_checkpointd.segment import SEALED_HEADER_BYTES, Record
from selfware_checkpointd.spool import Spool
from selfware_checkpointd.store import Store
from selfware_checkpointd.thinning import Policy
from selfware_checkpointd.tiering import ColdPolicy
from selfware_checkpointd.vault import NO_VAULT, Vault
from selfware_common.state.chunking import Chunker
from tests.unit.selfware_checkpointd.helpers import event, events, flip, keep_newest, state

OLD_KEY, KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
SECRET = b"the launch code is 4711"
LABEL = "before the secret operation"
EVERYTHING = Policy(retention_days=9_999, max_size_bytes=1 << 40, keep=dict.fromkeys(Level, 999))


def counting() -> Vault:
    """A vault whose nonces are 1, 2, 3 ..., so that the same input gives the same bytes."""
    numbers: Iterator[int] = count(1)
    return Vault([KEY], random=lambda size: next(numbers).to_bytes(size, "little"))


def text(seed: int, size: int = 200_000) -> bytes:
    """Compressible, with a secret in it now and then."""
    words = (b"line %d of %d\n" % (number * 7919, seed) + (SECRET if number % 100 == 0 else b"") for number in count())
    found = b""
    while len(found) < size:
        found += next(words)
    return found


def save(store: Store, sequence: int, data: bytes, label: str = LABEL) -> str:
    return store.save("alpha", Level.TASK, sequence, data, label, sequence).checkpoint_id


def fill(root: Path, vault: Vault) -> dict[str, bytes]:
    """Two sessions' worth of everything; the states by checkpoint id."""
    memory = Memory(root, lambda: 1_700_000_000_000_000_000, vault=vault)
    memory.sessions.open("alpha", "writer", 1)
    journal = Journal(memory.sessions.journal_directory("alpha"), "alpha", 20_000, vault=vault)
    for sequence in range(1, 61):
        journal.append([event(sequence, SECRET * 40, kind="SecretKind")])
    journal.seal()
    journal.append([event(61, SECRET, kind="SecretKind")])
    journal.close()
    states = {}
    for number in range(1, 4):
        data = text(1) + text(number)
        states[save(memory.store, number * 10, data)] = data
    asyncio.run(memory.close())
    return states


def on_disk(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def readable(root: Path) -> list[str]:
    """What somebody who has the disk finds: words, kinds, labels, trace ids, and digests of content they know."""
    found = on_disk(root)
    known = [SECRET, b"SecretKind", LABEL.encode(), b"ab" * 16, b"launch code"]
    digests = [blake3(bytes(chunk)).digest() for chunk in Chunker().cut(memoryview(text(1) + text(2)))]
    assert len(digests) > 3
    # nor anything compressed only: a zstd frame begins like this
    known.append(b"\x28\xb5\x2f\xfd")
    return [repr(one) for one in known + digests if one in found]


def test_a_plain_store_holds_plain_text_and_an_encrypted_one_nothing_of_it(tmp_path: Path) -> None:
    fill(tmp_path / "plain", NO_VAULT)
    assert len(readable(tmp_path / "plain")) > 5
    states = fill(tmp_path / "sealed", Vault([KEY]))
    assert readable(tmp_path / "sealed") == []
    memory = Memory(tmp_path / "sealed", vault=Vault([KEY]))
    assert {name: memory.store.load(name)[1] for name in states} == states
    assert [one.payload for one in memory.journal("alpha").read()] == [SECRET * 40] * 60 + [SECRET]
    assert all(verdict.intact for verdict in memory.store.verify_all())
    assert asyncio.run(memory.recover("alpha")).last_sequence == 61
    asyncio.run(memory.close())


@pytest.mark.parametrize("vault", [NO_VAULT, Vault([OTHER_KEY])], ids=["no key", "another key"])
def test_without_its_key_a_store_says_which_one_is_missing_and_changes_nothing(tmp_path: Path, vault: Vault) -> None:
    states = fill(tmp_path, Vault([KEY]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    missing = (Vault([KEY]).key_id or b"").hex()
    with pytest.raises(KeyMissingError) as refused:
        Memory(tmp_path, vault=vault)
    assert refused.value.sentence == (
        f"Checkpoint ckpt-00000001 is encrypted with key {missing}, which is not among the credentials."
    )
    assert refused.value.exit_code == 78
    with pytest.raises(KeyMissingError, match=f"The journal of session alpha is encrypted with key {missing}"):
        Journal(tmp_path / "sessions/alpha/journal", "alpha", vault=vault)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    memory = Memory(tmp_path, vault=Vault([KEY]))
    assert {name: memory.store.load(name)[1] for name in states} == states
    asyncio.run(memory.close())


@pytest.mark.parametrize("flipped", ["header", "end"])
def test_a_missing_key_is_not_mistaken_for_a_save_that_was_cut_off(tmp_path: Path, flipped: str) -> None:
    store = Store(tmp_path, vault=Vault([KEY]))
    save(store, 1, state(1))
    store.close()
    path = tmp_path / "ckpt-00000001.pack"
    (tmp_path / "ckpt-00000002.pack").unlink()  # now it looks like the last one, that nobody was told of
    flip(path, 20 if flipped == "header" else -1)
    before = path.read_bytes()
    with pytest.raises(KeyMissingError):
        Store(tmp_path)
    assert path.read_bytes() == before


def test_a_damaged_journal_header_and_a_missing_key_delete_no_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", vault=Vault([KEY]))
    journal.append(events(1, 5))
    journal.close()
    path = next(tmp_path.glob("*.wal"))
    flip(path, 22)  # in the key id
    before = path.read_bytes()
    opened = Journal(tmp_path, "s")
    assert opened.damage is not None and not opened.opened
    with pytest.raises(JournalCorruptError):
        opened.append([event(1)])
    opened.close()
    assert path.read_bytes() == before
    healed = Journal(tmp_path, "s", vault=Vault([OTHER_KEY, KEY]))
    assert "wrote the damaged header" in healed.opened[0]
    assert list(healed.read()) == events(1, 5)
    healed.close()
    again = Journal(tmp_path, "s", vault=Vault([KEY]))
    assert again.opened == [] and list(again.read()) == events(1, 5)


def test_encryption_that_is_switched_on_later_reaches_everything_in_time(tmp_path: Path) -> None:
    states = fill(tmp_path, NO_VAULT)
    vault = Vault([KEY])
    memory = Memory(tmp_path, vault=vault)
    data = text(99)
    states[save(memory.store, 61, data)] = data
    assert {name: memory.store.load(name)[1] for name in states} == states
    journal = memory.journal("alpha")
    journal.append([event(62, SECRET, kind="SecretKind")])
    said = asyncio.run(memory.maintain(EVERYTHING))
    assert "packed 3 checkpoints tighter" in said
    assert readable(tmp_path) == []
    assert {name: memory.store.load(name)[1] for name in states} == states
    assert [one.sequence for one in journal.read()] == list(range(1, 63))
    assert "packed" not in asyncio.run(memory.maintain(EVERYTHING))  # and that was that
    asyncio.run(memory.close())
    again = Memory(tmp_path, vault=vault)
    assert {name: again.store.load(name)[1] for name in states} == states
    assert [one.sequence for one in again.journal("alpha").read()] == list(range(1, 63))
    asyncio.run(again.close())


def test_a_new_key_takes_over_and_the_old_one_is_not_needed_after_upkeep(tmp_path: Path) -> None:
    states = fill(tmp_path, Vault([OLD_KEY]))
    memory = Memory(tmp_path, vault=Vault([KEY, OLD_KEY]))
    assert {name: memory.store.load(name)[1] for name in states} == states
    memory.journal("alpha").append([event(62)])
    asyncio.run(memory.maintain(EVERYTHING))
    asyncio.run(memory.close())
    only_new = Memory(tmp_path, vault=Vault([KEY]))
    assert {name: only_new.store.load(name)[1] for name in states} == states
    assert [one.sequence for one in only_new.journal("alpha").read()] == list(range(1, 63))
    asyncio.run(only_new.close())


def test_encryption_that_is_switched_off_leaves_what_is_encrypted_as_it_is(tmp_path: Path) -> None:
    states = fill(tmp_path, Vault([KEY]))
    memory = Memory(tmp_path, vault=Vault([KEY], seals=False))
    asyncio.run(memory.maintain(EVERYTHING))
    assert readable(tmp_path) == []
    assert {name: memory.store.load(name)[1] for name in states} == states
    save(memory.store, 61, text(99))
    memory.journal("alpha").append([event(62, kind="SecretKind")])
    assert repr(b"SecretKind") in readable(tmp_path)
    assert [one.sequence for one in memory.journal("alpha").read()] == list(range(1, 63))
    asyncio.run(memory.close())
    again = Memory(tmp_path, vault=Vault([KEY], seals=False))
    assert [one.sequence for one in again.journal("alpha").read()] == list(range(1, 63))
    asyncio.run(again.close())


def test_a_segment_whose_old_key_is_gone_holds_nothing_else_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", 5_000, vault=Vault([OLD_KEY]))
    for sequence in range(1, 31):
        journal.append([event(sequence, state(sequence, 500))])
    journal.seal()
    journal.append([event(31, state(1, 9_000))])
    journal.close()
    both = Journal(tmp_path, "s", 5_000, vault=Vault([KEY, OLD_KEY]))
    both.append([event(32)])
    both.close()
    without = Journal(tmp_path, "s", 5_000, vault=Vault([KEY]))
    assert without.seal() == 0
    without.append([event(33)])
    assert [one.sequence for one in without.read(31)] == [32, 33]
    with pytest.raises(KeyMissingError):
        list(without.read())


def test_packs_of_version_1_can_be_encrypted_too(tmp_path: Path) -> None:
    golden = (Path(__file__).parent / "golden/version-1.pack").read_bytes()
    (tmp_path / "ckpt-00000001.pack").write_bytes(golden)
    plain = Store(tmp_path)
    (info,) = plain.checkpoints()
    data = plain.load(info.checkpoint_id)[1]
    plain.close()
    store = Store(tmp_path, vault=Vault([KEY]))
    assert "packed 1 " in store.tighten()
    store.close()
    again = Store(tmp_path, vault=Vault([KEY]))
    assert again.load(info.checkpoint_id)[1] == data
    assert again.checkpoints()[0].state_hash == info.state_hash
    again.close()


def test_chunks_of_deleted_checkpoints_are_encrypted_again_as_well(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = state(1)
    for number in range(4):
        save(store, number, base + state(10 + number, 40_000))
    keep_newest(store, {Level.TASK: 1})
    assert list(tmp_path.glob("*.chunks"))
    store.close()
    store = Store(tmp_path, vault=Vault([KEY]))
    store.tighten()
    store.close()
    assert all(path.read_bytes()[8] == 3 for path in tmp_path.glob("ckpt-*") if path.stat().st_size)
    store = Store(tmp_path, vault=Vault([KEY]))
    assert all(verdict.intact for verdict in store.verify_all())
    with pytest.raises(KeyMissingError):
        Store(tmp_path)


def test_a_group_opens_in_its_own_place_only(tmp_path: Path) -> None:
    vault = Vault([KEY])
    store = Store(tmp_path, vault=vault)
    save(store, 1, state(1, 600_000))
    store.close()
    file = os.open(tmp_path / "ckpt-00000001.pack", os.O_RDONLY)
    group, later = read_index(file, 1, vault).groups[:2]
    stored = os.pread(file, group.stored_bytes, group.offset)
    os.close(file)
    room = memoryview(bytearray(sum(group.lengths)))
    assert raw_of(group, stored, room) is not None
    assert raw_of(replace(group, first=later.first), stored, room) is None
    assert raw_of(replace(group, box=vault.sealing(box_name(2))), stored, room) is None
    assert raw_of(replace(group, box=Vault([OTHER_KEY]).sealing(box_name(1))), stored, room) is None


@pytest.mark.parametrize("number", [1, 2])
def test_a_pack_under_another_name_or_number_is_not_believed(tmp_path: Path, number: int) -> None:
    """With everything about it right that can be made right without the key."""
    store = Store(tmp_path, vault=Vault([KEY]))
    save(store, 1, state(1, 50_000))
    save(store, 2, state(2, 50_000))
    store.close()
    other = bytearray((tmp_path / "ckpt-00000002.pack").read_bytes())
    if number == 1:
        other[12] = 1
    else:
        other[24:29] = b"gamma"
    other[20:24] = crc32(bytes(other[24:39]), crc32(bytes(other[:20]))).to_bytes(4, "little")
    (index_at,) = struct.unpack("<Q", other[-60:-52])
    other[-40:-8] = blake3(bytes(other[:39] + other[index_at:-40])).digest()
    (tmp_path / f"ckpt-0000000{number}.pack").write_bytes(other)
    again = Store(tmp_path, vault=Vault([KEY]))
    verdicts = again.unreadable()
    assert [verdict.checkpoint_id for verdict in verdicts] == [f"ckpt-0000000{number}"]
    assert "its hash" not in verdicts[0].problem


def test_the_journal_of_another_session_is_not_believed(tmp_path: Path) -> None:
    for session in ("mine", "other"):
        journal = Journal(tmp_path / session, session, vault=Vault([KEY]))
        journal.append([event(1, session.encode())])
        journal.close()
    shutil.copytree(tmp_path / "other", tmp_path / "mine", dirs_exist_ok=True)
    opened = Journal(tmp_path / "mine", "mine", vault=Vault([KEY]))
    assert opened.damage is not None and not opened.opened
    assert list(opened.read()) == []


def test_a_record_that_stands_in_another_place_is_not_believed(tmp_path: Path) -> None:
    """A whole record of the same session and key, its checksum right, taken from a segment before."""
    journal = Journal(tmp_path, "s", 100, vault=Vault([KEY]))
    for sequence in (1, 2):
        journal.append([event(sequence, b"same length %d" % sequence)])
    journal.close()
    first, second = sorted(tmp_path.glob("*.wal"))
    record = bytearray(first.read_bytes()[SEALED_HEADER_BYTES:])
    record[24] = 2  # claims to be event 2
    record[4:8] = crc32(bytes(record[8:])).to_bytes(4, "little")
    second.write_bytes(second.read_bytes()[:SEALED_HEADER_BYTES] + record)
    opened = Journal(tmp_path, "s", 100, vault=Vault([KEY]))
    assert opened.damage is not None
    assert [one.sequence for one in opened.read()] == [1]


def test_a_torn_tail_of_an_encrypted_journal_is_cut_and_a_damaged_middle_is_not(tmp_path: Path) -> None:
    vault = Vault([KEY])
    journal = Journal(tmp_path / "torn", "s", vault=vault)
    journal.append(events(1, 3))
    journal.append([event(4)])
    journal.close()
    shutil.copytree(tmp_path / "torn", tmp_path / "damaged")
    path = next((tmp_path / "torn").glob("*.wal"))
    os.truncate(path, path.stat().st_size - 1)
    torn = Journal(tmp_path / "torn", "s", vault=vault)
    assert "cut" in torn.opened[0] and list(torn.read()) == events(1, 3)
    torn.append([event(4, b"another one")])
    torn.close()
    assert list(Journal(tmp_path / "torn", "s", vault=vault).read())[-1].payload == b"another one"
    flip(next((tmp_path / "damaged").glob("*.wal")), SEALED_HEADER_BYTES + 60)
    damaged = Journal(tmp_path / "damaged", "s", vault=vault)
    assert damaged.damage is not None and not damaged.opened


def test_a_damaged_piece_of_a_sealed_segment_takes_only_its_own_events(tmp_path: Path) -> None:
    vault = Vault([KEY])
    journal = Journal(tmp_path, "s", 1_000_000, vault=vault)
    for sequence in range(1, 102):
        journal.append([event(sequence, state(sequence, 10_000))])
    assert journal.seal() == 1
    sealed = tmp_path / "00000000000000000001.wal.zst"
    data = sealed.read_bytes()
    marks = [found.start() for found in re.finditer(re.escape(sealed_segment.MARK), data)]
    assert len(marks) == 4
    flip(sealed, marks[1] + 5_000)
    with pytest.raises(JournalCorruptError) as refused:
        list(journal.read())
    assert 20 < int(str(refused.value.fields["last_good"])) < 30
    assert len(list(journal.read(60))) == 41


def test_a_sealed_segment_with_a_damaged_header_gives_everything(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", 300_000, vault=Vault([KEY]))
    for sequence in range(1, 62):
        journal.append([event(sequence, state(sequence, 10_000))])
    assert journal.seal() == 2
    for offset in (0, 12, 21, 26, 33):
        flip(tmp_path / "00000000000000000001.wal.zst", offset)
        reader = Journal(tmp_path, "s", vault=Vault([OTHER_KEY, KEY]))
        assert [one.sequence for one in reader.read()] == list(range(1, 62))
        reader.close()
        flip(tmp_path / "00000000000000000001.wal.zst", offset)


def test_what_is_sealed_after_encryption_was_switched_off_stays_encrypted(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", 2_000, vault=Vault([KEY]))
    for sequence in range(1, 9):
        journal.append([event(sequence, SECRET * 50)])
    journal.close()
    off = Journal(tmp_path, "s", 2_000, vault=Vault([KEY], seals=False))
    off.append([event(9, b"plain")])
    assert off.seal() == 4
    assert b"plain" in on_disk(tmp_path)
    assert SECRET not in on_disk(tmp_path) and b"\x28\xb5\x2f\xfd" not in on_disk(tmp_path)
    assert [one.sequence for one in off.read()] == list(range(1, 10))


def test_a_crash_between_sealing_and_removing_leaves_nothing_plain(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", 2_000, vault=NO_VAULT)
    for sequence in range(1, 9):
        journal.append([event(sequence, SECRET * 50)])
    kept = (tmp_path / "00000000000000000001.wal").read_bytes()
    journal.seal()
    journal.close()
    (tmp_path / "00000000000000000001.wal").write_bytes(kept)
    sealed = Journal(tmp_path, "s", 2_000, vault=Vault([KEY]))
    sealed.append([event(9)])
    sealed.seal()
    assert SECRET not in on_disk(tmp_path) and b"\x28\xb5\x2f\xfd" not in on_disk(tmp_path)
    assert [one.sequence for one in sealed.read()] == list(range(1, 10))


def test_a_large_state_that_comes_in_leaves_only_ciphertext_on_the_disk(tmp_path: Path) -> None:
    for is_encrypted in (False, True):
        with Spool(tmp_path, is_encrypted) as spool:
            for at in range(0, 100_000, 10_000):
                spool.write(memoryview(text(1)[at : at + 10_000]))
            stored = os.pread(spool._file.fileno(), 100_000, 0)
            assert (SECRET in stored) is not is_encrypted
            for _ in range(2):
                assert b"".join(spool.pieces([1, 49_999, 50_000])) == text(1)[:100_000]


def test_the_formats_that_are_encrypted_are_pinned(tmp_path: Path) -> None:
    store = Store(tmp_path / "c", vault=counting())
    save(store, 7, bytes(range(256)) * 300)
    journal = Journal(tmp_path / "j", "s", 400, vault=counting())
    journal.append(events(1, 2))
    journal.append([Record(7, 3, 42, "Zażółć", bytes(range(256)))])
    journal.append([event(4)])
    pack, segment = tmp_path / "c/ckpt-00000001.pack", tmp_path / "j/00000000000000000001.wal"
    found = {
        "pack": blake3(pack.read_bytes()).hexdigest()[:16],
        "segment": blake3(segment.read_bytes()).hexdigest()[:16],
    }
    vault = counting()
    box = JournalKeys("s", vault).for_sealed(1)
    assert box is not None
    sealed = sealed_segment.encode(b"some bytes", 1, box, zstandard.ZstdCompressor(level=3))
    found["sealed"] = blake3(sealed).hexdigest()[:16]
    assert found == {"pack": "db512f88bce5486f", "segment": "877b5a02740bfdba", "sealed": "9371d08a051b14c8"}


def test_what_was_encrypted_by_the_first_version_that_could_is_still_read(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden/encrypted"
    shutil.copytree(golden, tmp_path, dirs_exist_ok=True)
    store = Store(tmp_path / "checkpoints", vault=Vault([KEY]))
    assert store.load("ckpt-00000001")[1] == bytes(range(256)) * 300
    journal = Journal(tmp_path / "journal", "s", 400, vault=Vault([KEY]))
    assert list(journal.read()) == [*events(1, 2), Record(7, 3, 42, "Zażółć", bytes(range(256))), event(4)]
    assert (tmp_path / "journal/00000000000000000001.wal.zst").exists()


def test_nothing_is_built_on_a_group_that_does_not_open(tmp_path: Path) -> None:
    store = Store(tmp_path, vault=Vault([KEY]))
    data = state(1, 500_000)
    save(store, 1, data)
    flip(tmp_path / "ckpt-00000001.pack", 100_000)
    assert not store.verify("ckpt-00000001").intact
    again = save(store, 2, data + b"more")
    assert store.load(again)[1] == data + b"more"
    assert store.verify("ckpt-00000001").intact
    store.close()


def test_what_lies_in_the_cold_store_is_encrypted_and_heals(tmp_path: Path) -> None:
    nanos = 1_000_000_000
    store = Store(tmp_path / "warm", vault=Vault([OLD_KEY]), cold=DirectoryStore(tmp_path / "cold"))
    states = {save(store, number, text(number)): text(number) for number in range(1, 4)}
    store.close()
    store = Store(tmp_path / "warm", vault=Vault([KEY, OLD_KEY]), cold=DirectoryStore(tmp_path / "cold"))
    away = ColdPolicy(after_seconds=0, keep_local_bytes=0)
    assert store.tiers.turn(away, 10**6 * nanos, 1 << 50) == ""  # not before it is encrypted as it should be
    store.tighten()
    assert "copied 3 packs" in store.tiers.turn(away, 10**6 * nanos, 1 << 50)
    assert readable(tmp_path) == []
    flip(next((tmp_path / "warm").glob("*.cold")), 200)
    store.close()
    with pytest.raises(KeyMissingError):
        Store(tmp_path / "warm", vault=Vault([OLD_KEY]), cold=DirectoryStore(tmp_path / "cold"))
    store = Store(tmp_path / "warm", vault=Vault([KEY]), cold=DirectoryStore(tmp_path / "cold"))
    assert {name: store.load(name)[1] for name in states} == states
    store.close()


def test_one_box_serves_many_threads() -> None:
    box = Vault([KEY]).sealing(b"shared")
    assert box is not None
    box.kept_ready()
    wrong = []

    def work(seed: int) -> None:
        data = state(seed, 50_000)
        for number in range(200):
            around = b"%d" % number
            if box.open(box.seal(data, around), around) != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
