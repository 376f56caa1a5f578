"""The fold of a thread: what its events say, what removal leaves, and that the layout stays as it is documented."""

from __future__ import annotations

import os

import pytest
from blake3 import blake3

from selfware_langgraph import layout
from selfware_langgraph.drafts import CheckpointDraft, WritesDraft, copy_of
from selfware_langgraph.errors import ThreadUnreadableError
from selfware_langgraph.layout import Key
from selfware_langgraph.removal import superseded
from selfware_langgraph.state import Decoded, ThreadState


def begun(max_bytes: int = 1 << 20) -> ThreadState:
    state = ThreadState(Decoded(max_bytes))
    state.apply(1, layout.THREAD, layout.encode_thread("t"))
    return state


def say(state: ThreadState, draft: CheckpointDraft | WritesDraft) -> bytes:
    said = draft.event(state)
    assert said is not None
    state.apply(state.sequence + 1, *said)
    return said[1]


def draft(number: int, parent: int | None, **values: bytes) -> CheckpointDraft:
    typed = {name: ("bytes", value) for name, value in values.items()}
    above = None if parent is None else f"{parent:03}"
    return CheckpointDraft(Key("", f"{number:03}"), above, ("b", b"body"), ("m", b"{}"), typed)


def value(state: ThreadState, number: int, channel: str = "a") -> bytes:
    return state.value(state.checkpoints[Key("", f"{number:03}")].channels[channel])[1]


def test_a_value_that_did_not_change_is_not_stored_again() -> None:
    state = begun()
    large = os.urandom(5000)
    say(state, draft(1, None, a=large))
    payload = say(state, draft(2, 1, a=large))
    assert len(payload) < 300
    assert value(state, 2) == large


def test_every_version_of_a_long_chain_is_read_back_even_with_a_tiny_cache() -> None:
    state = begun(max_bytes=1)
    versions = [os.urandom(300)]
    for number in range(1, 200):
        versions.append(versions[-1] + os.urandom(300))
        say(state, draft(number, number - 1 if number > 1 else None, a=versions[number]))
    for number in (199, 1, 100, 57, 198):
        assert value(state, number) == versions[number]


def test_the_same_events_give_the_same_state_in_another_process() -> None:
    state, other = begun(), ThreadState(Decoded(1 << 20))
    events = [(layout.THREAD, layout.encode_thread("t"))]
    for number in range(1, 30):
        said = draft(number, number - 1 if number > 1 else None, a=b"x" * 200 * number).event(state)
        events.append(said)
        state.apply(state.sequence + 1, *said)
    for sequence, event in enumerate(events, start=1):
        other.apply(sequence, *event)
    assert other.checkpoints == state.checkpoints
    assert value(other, 29) == b"x" * 200 * 29


def test_removal_keeps_what_the_others_are_derived_from() -> None:
    state = begun()
    versions = {number: os.urandom(200) + b"x" * 3000 + bytes([number]) for number in range(1, 6)}
    for number, one in versions.items():
        say(state, draft(number, number - 1 if number > 1 else None, a=one))
    gone = [Key("", "001"), Key("", "003")]
    state.apply(state.sequence + 1, layout.REMOVED, layout.encode_removed(gone))
    assert [key.id for key in state.keys("")] == ["005", "004", "002"]
    assert [value(state, number) for number in (2, 4, 5)] == [versions[number] for number in (2, 4, 5)]
    state.apply(state.sequence + 1, layout.REMOVED, layout.encode_removed(None))
    assert not state.keys(None)
    assert not state._blobs


def test_a_tasks_writes_are_taken_once_but_the_last_error_counts() -> None:
    state = begun()
    key = Key("", "001")
    say(state, WritesDraft(key, "task", "", [("a", 0, ("s", b"first")), ("__error__", -1, ("s", b"old"))]))
    assert WritesDraft(key, "task", "", [("a", 0, ("s", b"second"))]).event(state) is None
    say(state, WritesDraft(key, "task", "", [("a", 0, ("s", b"second")), ("__error__", -1, ("s", b"new"))]))
    found = {write.index: state.value(write.value)[1] for write in state.writes[key].values()}
    assert found == {0: b"first", -1: b"new"}


def test_pruning_keeps_the_ancestors_that_a_delta_channel_is_rebuilt_from() -> None:
    state = begun()
    say(state, draft(1, None, a=b"1", d=b"snapshot"))
    say(state, draft(2, 1, a=b"2", d=b"snapshot"))
    say(state, draft(3, 2, a=b"3"))
    say(state, draft(4, 3, a=b"4"))
    assert {key.id for key in superseded(state, lambda _: ())} == {"001", "002", "003"}
    assert {key.id for key in superseded(state, lambda _: {"d"})} == {"001"}


def test_a_copy_is_read_like_the_original() -> None:
    source, target = begun(), begun()
    say(source, draft(1, None, a=b"x" * 5000))
    say(source, draft(2, 1, a=b"x" * 5000 + b"y"))
    say(source, WritesDraft(Key("", "002"), "task", "p", [("a", 0, ("s", b"w"))]))
    for key in sorted(source.checkpoints):
        for one in copy_of(source, key):
            say(target, one)
    assert value(target, 2) == b"x" * 5000 + b"y"
    assert target.checkpoints.keys() == source.checkpoints.keys()
    assert [write.path for write in target.writes[Key("", "002")].values()] == ["p"]


@pytest.mark.parametrize(
    ("sequence", "kind", "payload", "problem"),
    [
        (3, layout.REMOVED, layout.encode_removed(None), "came after event 1"),
        (2, "LangGraphTomorrow", b"{}\n", "does not know"),
        (2, layout.THREAD, b'{"layout":2,"thread_id":"t"}\n', "layout 2"),
        (2, layout.CHECKPOINT, b'{"blobs":[]}\nrest', "are spoken of"),
        (2, layout.CHECKPOINT, b"no json", "line 1"),
    ],
)
def test_an_event_that_makes_no_sense_is_refused(sequence: int, kind: str, payload: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        begun().apply(sequence, kind, payload)


def test_a_missing_base_is_one_sentence() -> None:
    state = begun()
    say(state, draft(1, None, a=os.urandom(500)))
    ref = state.checkpoints[Key("", "001")].channels["a"]
    state._blobs.clear()
    with pytest.raises(ThreadUnreadableError, match="Thread t cannot be read"):
        state.value(ref)


def test_the_layout_is_the_one_that_is_documented() -> None:
    """Golden: whoever changes the bytes changes LAYOUT too, or existing threads become unreadable."""
    state = begun()
    payloads = [
        layout.encode_thread("t"),
        say(state, draft(1, None, a=b"plain", b=bytes(range(256)))),
        say(state, WritesDraft(Key("", "001"), "task", "path", [("a", 0, ("s", b"w"))])),
        layout.encode_removed([Key("", "001")]),
    ]
    assert payloads[0] == b'{"layout":1,"thread_id":"t"}\n'
    assert payloads[2] == (
        b'{"ns":"","id":"001","task":"task","path":"path","writes":[["a",0,[0,0]]],'
        b'"blobs":[{"type":"s","coding":"plain","size":1,"bytes":1,"base":null}]}\nw'
    )
    assert blake3(b"".join(payloads)).hexdigest() == "51de2bdf1d09e36cf6eade785a1cb9c4a5b76b4adc1875e2ca4f83c696a5c2bb"
