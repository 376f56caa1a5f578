"""Workspaces that stand still: which actions may not begin, and that somebody hears when they may."""

from __future__ import annotations

import pytest

from selfware_oversightd.holding import Holds


@pytest.mark.parametrize("workspace", ["/w/one", "/w/one/inner", "/w", "/"])
def test_what_is_in_a_workspace_and_what_it_is_in_stand_still_with_it(workspace: str) -> None:
    holds = Holds()
    with holds.on(["/elsewhere", "/w/one"]):
        assert holds.covers(workspace)
        assert not holds.covers("/w/two")
        assert not holds.covers("/w/one-more")
    assert not holds.covers(workspace)


def test_two_may_hold_the_same_and_each_letting_go_is_told() -> None:
    holds, told = Holds(), []
    holds.released = lambda: told.append(holds.covers("/w"))
    with holds.on(["/w"]):
        with pytest.raises(ValueError, match="inner"), holds.on(["/w"]):
            raise ValueError("inner")
        assert holds.covers("/w")
    assert told == [True, False]
