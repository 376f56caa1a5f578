"""A question is answered once, in time, for exactly the bytes that were shown, and is good for one run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from selfware_common.sockets import Peer
from selfware_oversightd import approvals
from selfware_oversightd.errors import (
    ApprovalAmbiguousError,
    ApprovalDecidedError,
    ApprovalExpiredError,
    ApprovalNotFoundError,
    DigestMismatchError,
)
from selfware_oversightd.records import Answer

ANNA = Peer(pid=7, uid=1000, gid=1000)
SECOND = 10**9


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(approvals.SCHEMA)
    yield connection
    connection.close()


def asked(connection: sqlite3.Connection, count: int = 1) -> None:
    for number in range(1, count + 1):
        approvals.ask(connection, f"e-{number}", f"d-{number}", now=0, timeout_seconds=10)


def approve(connection: sqlite3.Connection, wanted: str, digest: str | None = None, now: int = SECOND) -> None:
    approvals.approve(connection, approvals.find(connection, wanted), digest, now, ANNA)


def test_who_decided_and_when_is_recorded(connection: sqlite3.Connection) -> None:
    asked(connection)
    approve(connection, "appr-1", "d-1")
    found = approvals.find(connection, "appr-1")
    assert (found.state, found.decided_by_uid, found.decided_by_pid) == (Answer.APPROVED, 1000, 7)
    assert found.decided_unix_nanos == SECOND


def test_an_approval_is_good_for_one_run_of_its_own_bytes(connection: sqlite3.Connection) -> None:
    asked(connection, 2)
    assert not approvals.use(connection, 1, "e-1", "d-1")
    approve(connection, "appr-1")
    assert not approvals.use(connection, 1, "e-1", "d-2")
    assert not approvals.use(connection, 1, "e-2", "d-1")
    assert not approvals.use(connection, 2, "e-1", "d-1")
    assert approvals.use(connection, 1, "e-1", "d-1")
    assert not approvals.use(connection, 1, "e-1", "d-1")
    with pytest.raises(ApprovalDecidedError, match="it is used already"):
        approve(connection, "appr-1")


def test_an_answer_for_other_bytes_is_refused_and_the_question_stays(connection: sqlite3.Connection) -> None:
    asked(connection)
    for digest in ("d-2", "", "D-1", "d-1 "):
        with pytest.raises(DigestMismatchError):
            approve(connection, "appr-1", digest)
    assert approvals.find(connection, "appr-1").state is Answer.PENDING


def test_an_answer_after_the_time_is_refused_even_before_the_question_says_expired(
    connection: sqlite3.Connection,
) -> None:
    asked(connection)
    approve_late = 10 * SECOND
    with pytest.raises(ApprovalExpiredError):
        approve(connection, "appr-1", now=approve_late)
    with pytest.raises(ApprovalExpiredError):
        approvals.reject(connection, approvals.find(connection, "appr-1"), "", approve_late, ANNA)
    assert [one.number for one in approvals.expired(connection, approve_late)] == [1]
    approvals.expire(connection, approvals.find(connection, "appr-1"), approve_late)
    with pytest.raises(ApprovalExpiredError):
        approve(connection, "appr-1", now=0)


def test_a_rejected_question_cannot_be_approved(connection: sqlite3.Connection) -> None:
    asked(connection)
    approvals.reject(connection, approvals.find(connection, "appr-1"), "no", 0, ANNA)
    with pytest.raises(ApprovalDecidedError, match="it is rejected already"):
        approve(connection, "appr-1")
    assert not approvals.use(connection, 1, "e-1", "d-1")


def test_a_unique_prefix_is_enough_and_an_exact_id_is_never_ambiguous(connection: sqlite3.Connection) -> None:
    asked(connection, 12)
    assert approvals.find(connection, "appr-1").number == 1
    assert approvals.find(connection, "appr-2").number == 2
    with pytest.raises(ApprovalAmbiguousError):
        approvals.find(connection, "appr")
    for number in range(1, 12):
        approve(connection, f"appr-{number}")
    assert approvals.find(connection, "appr").number == 12


@pytest.mark.parametrize(
    "wanted", ["", "appr-9", "x", "%", "appr-_", "appr-1%", "appr-" + "9" * 20, "appr-" + "1" * 5000, "appr-²"]
)
def test_what_is_no_approval_is_not_found(connection: sqlite3.Connection, wanted: str) -> None:
    asked(connection)
    with pytest.raises(ApprovalNotFoundError):
        approvals.find(connection, wanted)


def test_a_question_that_never_expires_is_possible(connection: sqlite3.Connection) -> None:
    assert approvals.ask(connection, "e", "d", now=SECOND, timeout_seconds=1e300).expires_unix_nanos > 0


def test_what_is_withdrawn_can_be_neither_answered_nor_used(connection: sqlite3.Connection) -> None:
    asked(connection, 3)
    approve(connection, "appr-2")
    approvals.reject(connection, approvals.find(connection, "appr-3"), "no", SECOND, ANNA)
    for number in (1, 2, 3):
        approvals.withdraw(connection, number, SECOND, ANNA, "the past is another")
    assert [approvals.find(connection, f"appr-{n}").state for n in (1, 2, 3)] == ["withdrawn", "withdrawn", "rejected"]
    with pytest.raises(ApprovalDecidedError, match="it is withdrawn already"):
        approve(connection, "appr-1")
    assert not approvals.use(connection, 2, "e-2", "d-2")
