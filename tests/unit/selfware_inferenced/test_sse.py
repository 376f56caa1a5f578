"""Framing of server-sent events."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from selfware_inferenced.sse import SseParser

STREAM = (
    b': ping\n\ndata: {"a":"\xc3\xa4"}\r\n\r\nevent: x\ndata: one\ndata:two\n\ndata: [DONE]\n\nerror: {"code":500}\n\n'
)
EVENTS = [b'{"a":"\xc3\xa4"}', b"one\ntwo", b"[DONE]", b'{"error":{"code":500}}']


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_cut_anywhere_gives_the_same_events(cuts: list[int]) -> None:
    parser, events = SseParser(), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        events += parser.feed(STREAM[start:end])
    assert events == EVENTS


def test_an_event_without_its_empty_line_is_not_complete() -> None:
    assert SseParser().feed(b"data: half\n") == []
