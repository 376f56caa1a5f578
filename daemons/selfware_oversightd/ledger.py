"""The durable memory of oversight: one SQLite file, every transaction on disk before anybody hears of it.

Goals, effects, questions, the pause flag and the audit chain lie in one file so that one transaction covers a decision,
its consequence and its audit row. WAL with synchronous=FULL; locked for this process alone. Outputs and canonical
texts of old effects are dropped (`forget_old`), their digests and outcomes are kept for ever: an effect id never runs
twice. Never decides anything.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from selfware_common.errors import DiskFullError, SelfwareError
from selfware_common.events import decode, encode
from selfware_oversightd import approvals, audit, trees
from selfware_oversightd.errors import LedgerDamagedError, LedgerFailedError, LedgerVersionError
from selfware_oversightd.policy import Goal
from selfware_oversightd.records import Control, EffectRecord, Outcome, State

FORMAT_VERSION = 3
RESTORING = """
CREATE TABLE restoring (one INTEGER PRIMARY KEY CHECK (one = 1), checkpoint_id TEXT NOT NULL, undone_by TEXT NOT NULL)
STRICT;
INSERT INTO restoring VALUES (1, '', '');
"""
UPGRADES = {1: trees.SCHEMA, 2: RESTORING}
"""What makes a ledger of an older version one of the next."""
FULL_RECORDS = 2000  # the newest effects keep their output and canonical text

SCHEMA = """
CREATE TABLE goals (
    goal_id TEXT PRIMARY KEY, workspace TEXT NOT NULL, check_argv BLOB NOT NULL, commits INTEGER NOT NULL,
    created_unix_nanos INTEGER NOT NULL
) STRICT;
CREATE TABLE control (one INTEGER PRIMARY KEY CHECK (one = 1), paused INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
INSERT INTO control VALUES (1, 0, '');
CREATE TABLE effects (
    number INTEGER PRIMARY KEY,
    effect_id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, state TEXT NOT NULL, kind TEXT NOT NULL,
    approval_class TEXT NOT NULL, summary TEXT NOT NULL, workspace TEXT NOT NULL,
    session_id TEXT NOT NULL, task_id TEXT NOT NULL, reason TEXT NOT NULL, rule TEXT NOT NULL,
    created_unix_nanos INTEGER NOT NULL, approval INTEGER NOT NULL, intent_unix_nanos INTEGER NOT NULL,
    ended_unix_nanos INTEGER NOT NULL, sentence TEXT NOT NULL, ok INTEGER NOT NULL, exit_status INTEGER NOT NULL,
    timed_out INTEGER NOT NULL, output_bytes INTEGER NOT NULL, seconds REAL NOT NULL
) STRICT;
CREATE INDEX effects_not_ended ON effects (state) WHERE state IN ('waiting', 'held', 'intent');
CREATE TABLE texts (number INTEGER PRIMARY KEY, canonical TEXT NOT NULL, output TEXT NOT NULL) STRICT;
"""
# The long texts of an effect lie in a table of their own: only a deleted row gives its pages back.
_LONG = ("canonical", "output")
_SHORT = tuple(field.name for field in fields(EffectRecord) if field.name not in _LONG)
_SHOWN = ", ".join(
    f"COALESCE({field.name}, '')" if field.name in _LONG else field.name for field in fields(EffectRecord)
)


class Ledger:
    """Owns the database file."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerDamagedError, LedgerVersionError or DiskFullError when it cannot be used."""
        self.path = path
        self.failed: SelfwareError | None = None  # set when what is on disk is no longer certain
        with self._told():
            self.connection = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                self.connection.execute(f"PRAGMA {pragma}")
            self.connection.execute("PRAGMA temp_store = MEMORY")
            self._open_format()

    def close(self) -> None:
        """Everything is on disk already."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it is on disk when the block is left, or none of it."""
        if self.failed is not None:
            raise self.failed
        with self._told():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    def note(self, now: int, kind: str, **body: Any) -> None:
        """An audit row in the present transaction."""
        audit.append(self.connection, now, kind, body)

    # Goals and the pause flag.

    def goal(self, goal_id: str) -> Goal | None:
        """The goal of that id."""
        return next(iter(self._goals("WHERE goal_id = ?", goal_id)), None)

    def goals(self) -> list[Goal]:
        """All, oldest first."""
        return self._goals("ORDER BY created_unix_nanos, goal_id")

    def add_goal(self, goal: Goal) -> None:
        """Record a new goal in the present transaction."""
        argv = encode({"argv": list(goal.check)})
        row = (goal.goal_id, goal.workspace, argv, int(goal.commit), goal.created_unix_nanos)
        self.connection.execute("INSERT INTO goals VALUES (?, ?, ?, ?, ?)", row)

    def control(self) -> Control:
        """What the operator wants now."""
        sql = "SELECT paused, reason, checkpoint_id, undone_by FROM control, restoring"
        paused, *others = self.connection.execute(sql).fetchone()
        return Control(bool(paused), *others)

    def set_control(self, control: Control) -> None:
        """In the present transaction."""
        self.connection.execute("UPDATE control SET paused = ?, reason = ?", (int(control.paused), control.reason))
        sql = "UPDATE restoring SET checkpoint_id = ?, undone_by = ?"
        self.connection.execute(sql, (control.restoring, control.undone_by))

    # Effects.

    def effect(self, effect_id: str) -> EffectRecord | None:
        """The effect of that id."""
        return next(iter(self._effects("WHERE effect_id = ?", effect_id)), None)

    def not_ended(self) -> list[EffectRecord]:
        """Every effect that still waits or runs, oldest first."""
        return self._effects("WHERE state IN ('waiting', 'held', 'intent') ORDER BY number")

    def ended_count(self, state: State) -> int:
        """How many ended that way."""
        count = self.connection.execute("SELECT COUNT(*) FROM effects WHERE state = ?", (state,)).fetchone()[0]
        return int(count)

    def add_effect(self, record: EffectRecord) -> None:
        """Record a new effect in the present transaction."""
        sql = f"INSERT INTO effects ({', '.join(_SHORT)}) VALUES ({', '.join('?' * len(_SHORT))})"
        number = self.connection.execute(sql, [getattr(record, name) for name in _SHORT]).lastrowid
        self.connection.execute("INSERT INTO texts VALUES (?, ?, ?)", (number, record.canonical, record.output))

    def hold(self, effect_id: str) -> None:
        """Approved: it may begin."""
        self.connection.execute("UPDATE effects SET state = 'held' WHERE effect_id = ?", (effect_id,))

    def ask(self, effect_id: str, approval: int) -> None:
        """It waits for the answer to this question."""
        values = (approval, effect_id)
        self.connection.execute("UPDATE effects SET state = 'waiting', approval = ? WHERE effect_id = ?", values)

    def intend(self, effect_id: str, now: int) -> None:
        """From here on it may have happened."""
        values = (now, effect_id)
        sql = "UPDATE effects SET state = 'intent', intent_unix_nanos = ? WHERE effect_id = ? AND state = 'held'"
        if self.connection.execute(sql, values).rowcount != 1:
            raise AssertionError(f"{effect_id} was not held")

    def end(self, effect_id: str, outcome: Outcome, now: int) -> None:
        """How it ended, for ever."""
        short = (outcome.state, outcome.sentence, int(outcome.ok), outcome.exit_status, int(outcome.timed_out))
        sql = (
            "UPDATE effects SET state = ?, sentence = ?, ok = ?, exit_status = ?, timed_out = ?, output_bytes = ?,"
            " seconds = ?, ended_unix_nanos = ? WHERE effect_id = ?"
        )
        self.connection.execute(sql, (*short, outcome.output_bytes, outcome.seconds, now, effect_id))
        sql = "UPDATE texts SET output = ? WHERE number = (SELECT number FROM effects WHERE effect_id = ?)"
        self.connection.execute(sql, (outcome.output, effect_id))

    def forget_old(self, keep: int = FULL_RECORDS) -> int:
        """Drop the long texts of ended effects but the newest; how many were dropped. Never their outcome."""
        with self.transaction() as connection:
            sql = (
                "DELETE FROM texts WHERE number <= (SELECT MAX(number) FROM effects) - ?"
                " AND number NOT IN (SELECT number FROM effects WHERE state IN ('waiting', 'held', 'intent'))"
            )
            return connection.execute(sql, (keep,)).rowcount

    def _goals(self, condition: str, *values: object) -> list[Goal]:
        rows = self.connection.execute(f"SELECT * FROM goals {condition}", values).fetchall()
        return [Goal(row[0], row[1], tuple(decode(row[2])["argv"]), bool(row[3]), row[4]) for row in rows]

    def _effects(self, condition: str, *values: object) -> list[EffectRecord]:
        sql = f"SELECT {_SHOWN} FROM effects LEFT JOIN texts USING (number) {condition}"
        rows = self.connection.execute(sql, values).fetchall()
        return [EffectRecord(row[0], row[1], State(row[2]), *row[3:]) for row in rows]

    def _open_format(self) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            script = (
                f"BEGIN; {SCHEMA} {approvals.SCHEMA} {audit.SCHEMA} {trees.SCHEMA} {RESTORING}"
                f" PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
            )
            self.connection.executescript(script)
            return
        while version in UPGRADES:
            script = f"BEGIN; {UPGRADES[version]} PRAGMA user_version = {version + 1}; COMMIT;"
            self.connection.executescript(script)
            version += 1
        if version != FORMAT_VERSION:
            raise LedgerVersionError(path=self.path, version=version, known=FORMAT_VERSION)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in our words. After a failed write to disk nothing is certain: the daemon must restart."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) or 0
            if code & 0xFF == sqlite3.SQLITE_FULL:
                raise DiskFullError(what="the ledger of approvals and actions", path=self.path.parent) from error
            if code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                self.failed = LedgerDamagedError(path=self.path, reason=str(error))
            else:
                self.failed = LedgerFailedError(path=self.path, reason=str(error))
            raise self.failed from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFullError(what="the ledger of approvals and actions", path=self.path.parent) from error
            raise
