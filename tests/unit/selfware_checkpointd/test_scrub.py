"""The scrub: everything at rest is read within its time, damage heals from another copy or is told exactly."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from blake3 import blake3

from selfware_checkpointd import sealing
from selfware_checkpointd.errors import CheckpointCorruptError
from selfware_checkpointd.journal import Journal
from selfware_checkpointd.manifest import Level
from selfware_checkpointd.memory import Memory
from selfware_checkpointd.scrub import ScrubPolicy
from selfware_checkpointd.scrub_note import Note, decode_note, encode_note
from selfware_checkpointd.store import Store
from selfware_checkpointd.tiering import NANOS
from tests.unit.selfware_checkpointd.cold_rig import ALL, AWAY, BOTH, DAY, NOW, Rig
from tests.unit.selfware_checkpointd.helpers import events, flip, state

WEEK = ScrubPolicy(days=7.0)
LATER = NOW + 100 * DAY


def whole_pass(store: Store, now: int = LATER) -> str:
    """Begin one, and a week later it is due."""
    store.scrub.turn(WEEK, now, ALL)
    return store.scrub.turn(WEEK, now + 7 * DAY, ALL)


def test_nothing_is_said_of_a_store_that_is_right(rig: Rig) -> None:
    assert whole_pass(rig.store) == ""
    assert rig.store.scrub.damage() == {}
    assert rig.store.scrub.taken_notes() == []


@pytest.mark.parametrize("where", ["pack", "cold", "object"])
def test_any_flip_heals_from_the_other_copy(rig: Rig, where: str) -> None:
    rig.turn(3, BOTH)
    files = {
        "pack": rig.warm_path / "ckpt-00000001.pack",
        "cold": rig.warm_path / "ckpt-00000001.cold",
        "object": next(rig.cold_path.glob("ckpt-00000001-*/00000")),
    }
    path = files[where]
    good = path.read_bytes()
    chance = random.Random(3)
    offsets = [0, 9, 13, 25, 40, len(good) - 1, len(good) - 30, len(good) - 70]
    for number, offset in enumerate([*offsets, *(chance.randrange(len(good)) for _ in range(12))]):
        flip(path, offset)
        if number % 2:
            rig.open()
        whole_pass(rig.store, LATER + number * 30 * DAY)
        notes = rig.store.scrub.taken_notes() + rig.store.tiers.taken_notes()
        if where == "object":
            assert any("was not right" in note for note in notes), (offset, notes)
            rig.turn(3, BOTH)
            path = next(rig.cold_path.glob("ckpt-00000001-*/00000"))
        elif where == "cold" and not any("is written anew" in note for note in notes):
            rig.turn(3, BOTH)  # it was of no use at the start, and the pack was copied again
        assert path.read_bytes() == good or where == "cold", (offset, notes)
        good = path.read_bytes()
        rig.check()
        rig.open()
        assert whole_pass(rig.store, LATER + (number * 30 + 10) * DAY) == ""
        assert rig.store.scrub.taken_notes() == []
    rig.check()


def test_a_pack_that_is_gone_comes_back_from_the_cold_store(rig: Rig) -> None:
    rig.turn(3, BOTH)
    (rig.warm_path / "ckpt-00000002.pack").unlink()
    assert "healed 1" in whole_pass(rig.store)
    assert (rig.warm_path / "ckpt-00000002.pack").exists()
    rig.check()


def test_a_chunk_that_was_saved_again_heals_the_old_pack_in_place(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store = Store(rig.warm_path)  # no cold store
    base = state(1)
    rig.save(base, 0)
    for offset in (5000, 90_000, 300_000):
        flip(rig.warm_path / "ckpt-00000001.pack", offset)
    assert "found damage" in whole_pass(rig.store)  # noticed, so the next save stores them again
    assert rig.store.scrub.damage()
    rig.save(base + b"tail", 1)
    assert "healed 1" in whole_pass(rig.store, LATER + 30 * DAY)
    assert not rig.store.scrub.damage()
    (rig.warm_path / "ckpt-00000002.pack").write_bytes(b"")  # what heals is in its own place now
    assert Store(rig.warm_path).load("ckpt-00000001")[1] == base


def test_a_damaged_index_is_written_anew_while_the_chunks_are_known(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store = Store(rig.warm_path)
    rig.save(state(1), 0)
    flip(rig.warm_path / "ckpt-00000001.pack", -100)
    assert "healed 1" in whole_pass(rig.store)
    assert Store(rig.warm_path).load("ckpt-00000001")[1] == state(1)


def test_what_nothing_can_heal_is_told_exactly(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store = Store(rig.warm_path)
    base = state(1)
    rig.save(base, 0)
    rig.save(base + b"more" * 2000, 1)
    rig.save(state(5), 2)
    flip(rig.warm_path / "ckpt-00000001.pack", 60_000)
    assert "found damage in 1" in whole_pass(rig.store)
    damage = rig.store.scrub.damage()
    assert set(damage) == {1, 2}
    assert 0 < damage[1].lost_bytes == damage[2].lost_bytes <= 262_144 + 65_536
    assert f"{damage[1].lost_bytes} of its 400000 bytes" in damage[1].sentence
    assert [one.checkpoint_id for one in rig.store.scrub.taken_news()] == ["ckpt-00000001", "ckpt-00000002"]
    assert rig.store.scrub.taken_news() == []
    with pytest.raises(CheckpointCorruptError):
        rig.store.load("ckpt-00000001")
    whole_pass(rig.store, LATER + 30 * DAY)
    assert rig.store.scrub.taken_news() == []  # once is enough


def test_the_only_copy_damaged_in_the_cold_store_comes_back_if_its_chunks_are_elsewhere(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    base = state(1)
    rig.save(base, 0)
    rig.save(state(2), 1)
    rig.turn(9)
    assert rig.store.tiers.tier_of(1)[0] == "cold"
    path = next(rig.cold_path.glob("ckpt-00000001-*/00000"))
    flip(path, 100_000)
    assert "found damage" in whole_pass(rig.store)
    assert set(rig.store.scrub.damage()) == {1}
    rig.save(base, 2)
    assert "healed" in whole_pass(rig.store, LATER + 30 * DAY)
    rig.turn(9)
    rig.open()
    rig.check()
    assert rig.store.scrub.damage() == {}


def test_while_the_cold_store_is_away_nothing_is_called_damaged(rig: Rig) -> None:
    rig.turn(3)
    mark = rig.cold_path / "selfware-cold-store"
    mark.rename(rig.cold_path / "gone")
    rig.open()
    assert whole_pass(rig.store) == ""
    assert rig.store.scrub.damage() == {}
    assert any("was not verified" in note for note in rig.store.scrub.taken_notes())
    (rig.cold_path / "gone").rename(mark)
    rig.check()


def test_a_pass_is_spread_over_its_time_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.store = Store(rig.warm_path)
    for number in range(8):
        rig.save(state(number), number)
    rig.store.scrub.turn(WEEK, LATER)
    reached = []
    for hours in range(0, 7 * 24, 12):
        if hours % 36 == 0:
            rig.store = Store(rig.warm_path)
        rig.store.scrub.turn(WEEK, LATER + hours * 3600 * NANOS)
        reached.append(decode_note((rig.warm_path / "scrub").read_bytes()).next_pack)
    assert reached == sorted(reached)
    assert reached[0] == 0 and reached[7] in (4, 5) and reached[-1] > 8
    rig.store.scrub.turn(WEEK, LATER + 8 * DAY)
    assert decode_note((rig.warm_path / "scrub").read_bytes()).began_unix_nanos == LATER + 8 * DAY


def test_a_scrub_of_zero_days_reads_nothing(rig: Rig) -> None:
    assert rig.store.scrub.turn(ScrubPolicy(days=0), LATER, ALL) == ""
    assert not (rig.warm_path / "scrub").exists()


def test_damage_in_a_sealed_segment_names_the_events_and_what_covers_them(tmp_path: Path) -> None:
    memory = Memory(tmp_path, lambda: NOW)
    memory.sessions.open("alpha", "writer", NOW)
    journal = Journal(memory.sessions.journal_directory("alpha"), "alpha", 4000)
    for first in range(1, 200, 5):
        journal.append(events(first, first + 4))
    journal.seal()
    journal.close()
    firsts = sealing.first_sequences(memory.sessions.journal_directory("alpha"))
    path = sealing.compressed_path(memory.sessions.journal_directory("alpha"), firsts[1])
    flip(path, 60)
    whole_pass(memory.store)
    (note,) = memory.store.scrub.taken_notes()
    assert f"events {firsts[1]} to {firsts[2] - 1} are lost, and no checkpoint covers them" in note
    memory.store.save("alpha", Level.SESSION, 200, state(1), "", NOW)
    whole_pass(memory.store, LATER + 30 * DAY)
    (note,) = memory.store.scrub.taken_notes()
    assert "ckpt-00000001 covers them" in note


def test_the_bytes_of_the_note_are_pinned_and_a_damaged_one_begins_anew() -> None:
    note = Note(NOW, 7, 3)
    data = encode_note(note)
    assert decode_note(data) == note
    assert blake3(data).hexdigest() == "0da33a10d653bee7bb9dd6003854a7798958e75acd106b0b37566d4aabdb70dd"
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1
        assert decode_note(bytes(damaged)) == Note()


def test_readers_hold_up_healing_and_it_is_tried_again(rig: Rig) -> None:
    rig.turn(3, BOTH)
    flip(rig.warm_path / "ckpt-00000001.pack", 2000)
    rig.store.scrub.turn(WEEK, LATER, ALL)
    with rig.store.reading("ckpt-00000001"):
        assert rig.store.scrub.turn(WEEK, LATER + 7 * DAY, ALL) == ""
    assert "healed 1" in rig.store.scrub.turn(WEEK, LATER + 7 * DAY, ALL)
    assert AWAY.keep_local_bytes == 0
