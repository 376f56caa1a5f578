"""Every thread id gets a session of its own, with a name that checkpointd takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selfware_checkpointd.sessions import valid_session_id
from selfware_langgraph.names import is_ours, session_of


@given(thread_id=st.text(max_size=300))
def test_any_thread_id_has_a_valid_session(thread_id: str) -> None:
    session_id = session_of(thread_id)
    assert valid_session_id(session_id) == session_id
    assert is_ours(session_id)


@given(ids=st.sets(st.text(alphabet="aA.-_/ é", max_size=4)))
def test_two_threads_never_share_one(ids: set[str]) -> None:
    assert len({session_of(one) for one in ids}) == len(ids)


def test_a_plain_id_stays_readable_and_another_is_hashed() -> None:
    assert session_of("a1b2-c3") == "langgraph-a1b2-c3"
    assert session_of("a/b").startswith("langgraph.")
    assert session_of("x" * 101).startswith("langgraph.")
    assert not is_ours("agent")
