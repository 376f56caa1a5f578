"""The audit chain: whatever is changed, removed or swapped is found, at the first broken row."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator

import pytest

from selfware_oversightd import audit

ROWS = audit.PAGE_ROWS + 20


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(audit.SCHEMA)
    for number in range(ROWS):
        audit.append(connection, number, "proposed", {"effect_id": f"e-{number}", "text": 'ä"\n'})
    yield connection
    connection.close()


def verified(connection: sqlite3.Connection) -> audit.Verified:
    return asyncio.run(audit.verify(connection))


def test_an_untouched_chain_is_intact(connection: sqlite3.Connection) -> None:
    found = verified(connection)
    assert (found.rows, found.broken_row) == (ROWS, None)
    assert found.head == audit.newest(connection, 1)[0].hash.hex()


def test_an_empty_chain_is_intact() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(audit.SCHEMA)
    assert verified(connection) == audit.Verified(0, bytes(32).hex())


def test_the_database_refuses_to_change_or_delete_a_row(connection: sqlite3.Connection) -> None:
    for statement in ("UPDATE audit SET kind = 'x' WHERE seq = 1", "DELETE FROM audit WHERE seq = 1"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


@pytest.mark.parametrize("row", [1, 7, audit.PAGE_ROWS, audit.PAGE_ROWS + 1, ROWS])
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit SET body = replace(body, 'e-', 'f-') WHERE seq = ?",
        "UPDATE audit SET unix_nanos = unix_nanos + 1 WHERE seq = ?",
        "UPDATE audit SET kind = 'began' WHERE seq = ?",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = ?",
    ],
)
def test_a_changed_row_is_found(connection: sqlite3.Connection, row: int, damage: str) -> None:
    connection.execute("DROP TRIGGER audit_is_never_changed")
    connection.execute(damage, (row,))
    assert verified(connection).broken_row == row


def test_a_missing_row_is_found(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TRIGGER audit_is_never_deleted")
    connection.execute("DELETE FROM audit WHERE seq = 9")
    found = verified(connection)
    assert (found.broken_row, found.rows, found.problem) == (9, 8, "row 9 is missing")


def test_a_row_rewritten_with_a_matching_hash_breaks_the_next_one(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TRIGGER audit_is_never_changed")
    before = audit.newest(connection, ROWS)[3].hash
    digest = audit._hash(before, 5, 4, "proposed", "{}")
    connection.execute("UPDATE audit SET body = '{}', hash = ? WHERE seq = 5", (digest,))
    assert verified(connection).broken_row == 6


def test_the_hash_of_a_known_row_is_pinned() -> None:
    assert audit._hash(bytes(32), 1, 2, "goal", '{"a":"b"}').hex() == GOLDEN


GOLDEN = "bd5d452081e5a2e394894b426d20cf5cd70a4d5e890de80e1d2dbccf407d7d76"
