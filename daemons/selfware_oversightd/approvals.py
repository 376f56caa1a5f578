"""Questions to people: asked once, answered once, good for one run of exactly the bytes that were shown.

    pending -> approved -> used          pending -> rejected          pending -> expired
    pending, approved -> withdrawn (what it was about is no more)

An answer is checked against the clock and the digest in the transaction that records it, and an approval becomes
"used" in the transaction that records the intent, so no crash and no repeat gives it twice. All functions work in the
caller's transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from selfware_common.sockets import Peer
from selfware_oversightd.errors import (
    ApprovalAmbiguousError,
    ApprovalDecidedError,
    ApprovalExpiredError,
    ApprovalNotFoundError,
    DigestMismatchError,
)
from selfware_oversightd.records import Answer, Approval

SCHEMA = """
CREATE TABLE approvals (
    number INTEGER PRIMARY KEY AUTOINCREMENT, effect_id TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
    created_unix_nanos INTEGER NOT NULL, expires_unix_nanos INTEGER NOT NULL, decided_unix_nanos INTEGER NOT NULL,
    decided_by_uid INTEGER NOT NULL, decided_by_pid INTEGER NOT NULL, note TEXT NOT NULL
) STRICT;
CREATE INDEX approvals_pending ON approvals (expires_unix_nanos) WHERE state = 'pending';
"""
PREFIX = "appr-"
MOST_DIGITS = 18  # what an SQLite integer surely holds
LONGEST_SECONDS = 100 * 365 * 86400.0  # beyond it, "never"


def ask(connection: sqlite3.Connection, effect_id: str, digest: str, now: int, timeout_seconds: float) -> Approval:
    """A new question."""
    expires = now + int(min(timeout_seconds, LONGEST_SECONDS) * 1e9)
    cursor = connection.execute(
        "INSERT INTO approvals (effect_id, digest, state, created_unix_nanos, expires_unix_nanos, decided_unix_nanos,"
        " decided_by_uid, decided_by_pid, note) VALUES (?, ?, 'pending', ?, ?, 0, -1, -1, '')",
        (effect_id, digest, now, expires),
    )
    return Approval(cursor.lastrowid or 0, effect_id, digest, Answer.PENDING, now, expires)


def find(connection: sqlite3.Connection, wanted: str) -> Approval:
    """The approval of that id, or the only one (the only pending one) whose id begins so."""
    number = wanted.removeprefix(PREFIX)
    if wanted == f"{PREFIX}{number}" and number.isascii() and number.isdigit() and len(number) <= MOST_DIGITS:
        found = _select(connection, "WHERE number = ?", int(number))
        if found:
            return found[0]
    pattern = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    like = "WHERE 'appr-' || number LIKE ? ESCAPE '\\'"
    candidates = _select(connection, f"{like} AND state = 'pending'", pattern) or _select(connection, like, pattern)
    if not wanted or not candidates:
        raise ApprovalNotFoundError(approval_id=repr(wanted))
    if len(candidates) > 1:
        raise ApprovalAmbiguousError(approval_id=repr(wanted), count=len(candidates))
    return candidates[0]


def pending(connection: sqlite3.Connection) -> list[Approval]:
    """What people are asked now, oldest first."""
    return _select(connection, "WHERE state = 'pending' ORDER BY number")


def newest(connection: sqlite3.Connection, limit: int) -> list[Approval]:
    """The last questions, whatever became of them, newest first."""
    return _select(connection, "ORDER BY number DESC LIMIT ?", limit)


def expired(connection: sqlite3.Connection, now: int) -> list[Approval]:
    """Questions whose time is over but which do not say so yet."""
    return _select(connection, "WHERE state = 'pending' AND expires_unix_nanos <= ? ORDER BY number", now)


def approve(connection: sqlite3.Connection, approval: Approval, digest: str | None, now: int, peer: Peer) -> Approval:
    """Record a yes. Raises unless it is pending, in time, and for the bytes that the person saw."""
    _require_open(approval, now, "approved")
    if digest is not None and digest != approval.digest:
        raise DigestMismatchError(approval_id=approval.approval_id, digest=approval.digest, given=repr(digest[:80]))
    return _decide(connection, approval, Answer.APPROVED, now, peer, "")


def reject(connection: sqlite3.Connection, approval: Approval, reason: str, now: int, peer: Peer) -> Approval:
    """Record a no."""
    _require_open(approval, now, "rejected")
    return _decide(connection, approval, Answer.REJECTED, now, peer, reason)


def expire(connection: sqlite3.Connection, approval: Approval, now: int) -> None:
    """Nobody answered in time."""
    _decide(connection, approval, Answer.EXPIRED, now, Peer(pid=-1, uid=-1, gid=-1), "")


def withdraw(connection: sqlite3.Connection, number: int, now: int, peer: Peer, note: str) -> None:
    """What was asked about will not be done, whatever the answer is or was."""
    connection.execute(
        "UPDATE approvals SET state = 'withdrawn', decided_unix_nanos = ?, decided_by_uid = ?, decided_by_pid = ?,"
        " note = ? WHERE number = ? AND state IN ('pending', 'approved')",
        (now, peer.uid, peer.pid, note, number),
    )


def use(connection: sqlite3.Connection, number: int, effect_id: str, digest: str) -> bool:
    """Take the one run that the approval is good for; False if there is none, or it is for something else."""
    sql = "UPDATE approvals SET state = 'used' WHERE number = ? AND effect_id = ? AND digest = ? AND state = 'approved'"
    return connection.execute(sql, (number, effect_id, digest)).rowcount == 1


def by_number(connection: sqlite3.Connection, number: int) -> Approval | None:
    """The approval of that number."""
    return next(iter(_select(connection, "WHERE number = ?", number)), None)


def _require_open(approval: Approval, now: int, wish: str) -> None:
    if approval.state is Answer.EXPIRED or (approval.state is Answer.PENDING and approval.expires_unix_nanos <= now):
        raise ApprovalExpiredError(approval_id=approval.approval_id, wish=wish)
    if approval.state is not Answer.PENDING:
        raise ApprovalDecidedError(approval_id=approval.approval_id, wish=wish, state=approval.state)


def _decide(
    connection: sqlite3.Connection, approval: Approval, state: Answer, now: int, peer: Peer, note: str
) -> Approval:
    connection.execute(
        "UPDATE approvals SET state = ?, decided_unix_nanos = ?, decided_by_uid = ?, decided_by_pid = ?, note = ?"
        " WHERE number = ? AND state = 'pending'",
        (state, now, peer.uid, peer.pid, note, approval.number),
    )
    return replace(
        approval, state=state, decided_unix_nanos=now, decided_by_uid=peer.uid, decided_by_pid=peer.pid, note=note
    )


def _select(connection: sqlite3.Connection, condition: str, *values: object) -> list[Approval]:
    rows = connection.execute(f"SELECT * FROM approvals {condition}", values).fetchall()
    return [Approval(row[0], row[1], row[2], Answer(row[3]), *row[4:]) for row in rows]
