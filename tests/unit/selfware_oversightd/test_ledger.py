"""The ledger: all of a transaction or none of it, nothing forgotten but long old texts, damage named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from selfware_common.errors import DiskFullError
from selfware_oversightd import trees
from selfware_oversightd.errors import LedgerDamagedError, LedgerFailedError, LedgerVersionError
from selfware_oversightd.ledger import FORMAT_VERSION, Ledger
from selfware_oversightd.policy import Goal
from selfware_oversightd.records import Control, EffectRecord, Outcome, State

RECORD = EffectRecord(
    effect_id="e-1",
    digest="d",
    state=State.HELD,
    kind="run_command",
    approval_class="SystemCommand",
    summary="run 'x'",
    canonical='{"run_command":{"argv":["x"]}}',
    workspace="/w",
    session_id="s",
    task_id="t",
    reason="why",
    rule="rule",
    created_unix_nanos=1,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def add(ledger: Ledger, count: int) -> None:
    with ledger.transaction():
        for number in range(1, count + 1):
            ledger.add_effect(replace(RECORD, effect_id=f"e-{number}"))
            ledger.intend(f"e-{number}", 2)
            ledger.end(f"e-{number}", Outcome(State.DONE, "exited with status 0", ok=True, output="long"), 3)


def test_what_was_recorded_is_there_after_reopening(tmp_path: Path) -> None:
    goal = Goal("t", "/w", ("make", "test"), commit=True, created_unix_nanos=5)
    first = Ledger(tmp_path / "ledger.sqlite")
    with first.transaction():
        first.add_effect(RECORD)
        first.add_goal(goal)
        first.set_control(Control(True, "lunch", "ckpt-1", "ckpt-2"))
    first.close()
    second = Ledger(tmp_path / "ledger.sqlite")
    assert second.effect("e-1") == RECORD
    assert second.not_ended() == [RECORD]
    assert second.goals() == [goal]
    assert second.control() == Control(True, "lunch", "ckpt-1", "ckpt-2")
    second.close()


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        ledger.add_effect(RECORD)
        ledger.note(1, "proposed", effect_id="e-1")
        raise ZeroDivisionError
    assert ledger.effect("e-1") is None
    assert ledger.connection.execute("SELECT COUNT(*) FROM audit").fetchone() == (0,)


def test_an_intent_is_recorded_only_once(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.add_effect(RECORD)
        ledger.intend("e-1", 2)
    with pytest.raises(AssertionError), ledger.transaction():
        ledger.intend("e-1", 3)


def test_an_effect_id_is_recorded_only_once(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.add_effect(RECORD)
    with pytest.raises(LedgerFailedError, match="UNIQUE"), ledger.transaction():
        ledger.add_effect(RECORD)


def test_a_full_database_is_a_full_disk_and_works_again_with_room(ledger: Ledger) -> None:
    pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
    ledger.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFullError, match="No space left for the ledger"), ledger.transaction():
        ledger.add_effect(replace(RECORD, canonical="x" * 100_000))
    assert ledger.effect("e-1") is None
    assert ledger.failed is None
    ledger.connection.execute("PRAGMA max_page_count = 100000")
    with ledger.transaction():
        ledger.add_effect(RECORD)
    assert ledger.effect("e-1") == RECORD


def test_old_texts_are_forgotten_but_never_an_outcome(ledger: Ledger) -> None:
    add(ledger, 10)
    assert ledger.forget_old(keep=4) == 6
    assert ledger.forget_old(keep=4) == 0
    old, new = ledger.effect("e-6"), ledger.effect("e-7")
    assert old is not None
    assert new is not None
    assert (old.canonical, old.output, old.state, old.digest) == ("", "", State.DONE, "d")
    assert new.output == "long"


def test_an_effect_that_has_not_ended_keeps_its_texts(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.add_effect(replace(RECORD, effect_id="e-0"))
    add(ledger, 10)
    ledger.forget_old(keep=1)
    kept = ledger.effect("e-0")
    assert kept is not None
    assert kept.canonical == RECORD.canonical


def test_a_file_that_is_no_ledger_is_named_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(LedgerDamagedError, match=r"ledger\.sqlite is damaged"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_ledger_of_another_version_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(LedgerVersionError, match="version 9"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_ledger_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger.sqlite")
    with first.transaction() as connection:
        first.add_effect(RECORD)
        connection.execute("DROP TABLE captures")
        connection.execute("DROP TABLE restoring")
    first.connection.execute("PRAGMA user_version = 1")
    first.close()
    for _ in range(2):
        again = Ledger(tmp_path / "ledger.sqlite")
        assert again.effect("e-1") == RECORD
        assert not trees.is_ours(again.connection, "h", "/w")
        assert again.control() == Control(False, "")
        assert again.connection.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
        again.close()


def test_a_tree_is_ours_for_its_workspace_alone(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        trees.record(connection, "h", "/w", "s", 1)
        trees.name(connection, "h", "/w", "ckpt-1")
        trees.record(connection, "h", "/w", "s", 2)
        trees.name(connection, "h", "/w", "ckpt-2")
    assert trees.is_ours(ledger.connection, "h", "/w")
    assert not trees.is_ours(ledger.connection, "h", "/other")
    assert not trees.is_ours(ledger.connection, "i", "/w")
    rows = ledger.connection.execute("SELECT stream_hash, workspace, checkpoint_id, unix_nanos FROM captures")
    assert rows.fetchall() == [("h", "/w", "ckpt-2", 2)]


def test_the_oldest_trees_are_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MOST_ROWS", 10)
    with ledger.transaction() as connection:
        for number in range(25):
            trees.record(connection, f"h{number}", "/w", "s", number)
    known = [number for number in range(25) if trees.is_ours(ledger.connection, f"h{number}", "/w")]
    assert known == list(range(15, 25))


def test_the_ledger_grows_linearly_and_by_little(ledger: Ledger) -> None:
    def size_bytes() -> int:
        one, other = (ledger.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(one * other)

    sizes = [size_bytes()]
    for start in (0, 2000):
        with ledger.transaction():
            for number in range(start, start + 2000):
                name = f"e-{number}"
                ledger.add_effect(replace(RECORD, effect_id=name, canonical="x" * 500))
                ledger.note(1, "proposed", effect_id=name)
                ledger.end(name, Outcome(State.DONE, "exited with status 0", ok=True, output="y" * 2000), 3)
                ledger.note(1, "ended", effect_id=name)
        ledger.forget_old(keep=100)
        sizes.append(size_bytes())
    assert sizes[2] - sizes[1] < 2000 * 1000
