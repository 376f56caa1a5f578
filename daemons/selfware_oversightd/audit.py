"""The audit trail: an append-only table in which every row's hash covers the row before it.

    hash = BLAKE3(hash of the row before (32 bytes; zeros before row 1)
                  + canonical JSON of {"body":…,"kind":…,"seq":…,"unix_nanos":…})

A changed, missing or swapped row breaks the chain at that row. Rows are written in the transaction of the fact they
record, so neither exists without the other. The database itself refuses to update or delete a row.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from blake3 import blake3

from selfware_tool.files import canonical

BEFORE_FIRST = bytes(32)
PAGE_ROWS = 500

SCHEMA = """
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    unix_nanos INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
"""


@dataclass(frozen=True)
class AuditRow:
    """One fact that was recorded."""

    seq: int
    unix_nanos: int
    kind: str
    body: str  # canonical JSON
    hash: bytes

    def shown(self) -> dict[str, Any]:
        """As the operator's API gives it."""
        return {
            "seq": self.seq,
            "unix_nanos": self.unix_nanos,
            "kind": self.kind,
            "body": orjson.loads(self.body),
            "hash": self.hash.hex(),
        }


@dataclass(frozen=True)
class Verified:
    """What a walk along the chain found."""

    rows: int
    head: str
    broken_row: int | None = None
    problem: str = ""


def append(connection: sqlite3.Connection, unix_nanos: int, kind: str, body: dict[str, Any]) -> None:
    """Add a row in the caller's transaction."""
    last = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    seq, before = (last[0] + 1, last[1]) if last else (1, BEFORE_FIRST)
    text = canonical(body).decode("ascii")
    row = (seq, unix_nanos, kind, text, _hash(before, seq, unix_nanos, kind, text))
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", row)


def newest(connection: sqlite3.Connection, limit: int) -> list[AuditRow]:
    """The last rows, oldest of them first."""
    rows = connection.execute("SELECT * FROM audit ORDER BY seq DESC LIMIT ?", (limit,)).fetchall()
    return [AuditRow(*row) for row in reversed(rows)]


async def verify(connection: sqlite3.Connection) -> Verified:
    """Walk the whole chain page by page, letting others work in between; stops at the first broken row."""
    before, expected = BEFORE_FIRST, 1
    while True:
        page = connection.execute("SELECT * FROM audit WHERE seq >= ? ORDER BY seq LIMIT ?", (expected, PAGE_ROWS))
        rows = [AuditRow(*row) for row in page.fetchall()]
        for row, problem in _check(before, expected, rows):
            if problem:
                return Verified(expected - 1, before.hex(), expected, problem)
            before, expected = row.hash, row.seq + 1
        if len(rows) < PAGE_ROWS:
            return Verified(expected - 1, before.hex())
        await asyncio.sleep(0)


def _check(before: bytes, expected: int, rows: list[AuditRow]) -> Iterator[tuple[AuditRow, str]]:
    for row in rows:
        if row.seq != expected:
            yield row, f"row {expected} is missing"
            return
        if row.hash != _hash(before, row.seq, row.unix_nanos, row.kind, row.body):
            yield row, f"row {row.seq} is not what was recorded, or the one before it is not"
            return
        yield row, ""
        before, expected = row.hash, row.seq + 1


def _hash(before: bytes, seq: int, unix_nanos: int, kind: str, body: str) -> bytes:
    record = {"seq": seq, "unix_nanos": unix_nanos, "kind": kind, "body": body}
    return blake3(before + canonical(record)).digest()
