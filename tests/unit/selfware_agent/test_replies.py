"""Whatever a model writes becomes an action or a sentence about what is wrong with it; it never raises.

A reply is in the journal before it is read: one that raised would stop every later start of the session as well.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfware_agent import replies
from selfware_common import events

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["tool", "path", "content", "script"]), inner),
)


@pytest.mark.parametrize("tool", [[], {}, [["finish"]], None, 1, True, "", "nonsense"])
def test_a_tool_that_is_no_name_is_a_bad_reply(tool: object) -> None:
    assert isinstance(replies.parse(json.dumps({"tool": tool, "summary": "x"}), "stop"), replies.BadReply)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"tool":' * 100_000, "[" * 2000 + "]" * 2000, "1" * 10_000])
def test_deep_and_huge_json_is_a_bad_reply(text: str) -> None:
    assert isinstance(replies.parse(text, "stop"), replies.BadReply)


@settings(deadline=None)
@given(JSON)
def test_every_json_is_an_action_that_can_be_recorded_or_a_bad_reply(value: object) -> None:
    found = replies.parse(json.dumps(value), "stop")
    assert isinstance(found, replies.BadReply) or events.encode({"action": found})


@settings(deadline=None)
@given(st.sampled_from(sorted(replies.TOOLS)), st.text())
def test_every_text_in_a_field_can_be_recorded_or_is_a_bad_reply(tool: str, text: str) -> None:
    found = replies.parse(json.dumps({"tool": tool, **dict.fromkeys(replies.TOOLS[tool], text)}), "stop")
    assert isinstance(found, replies.BadReply) or events.encode({"action": found})
