"""How long an action may take is the operator's to say: a build of half an hour is not ended after ten minutes."""

from __future__ import annotations

import pytest

from selfware_common.settings import AgentSettings, Settings
from selfware_oversightd.config import longest_action_seconds
from selfware_tool.launcher import python_home
from selfware_tool.request import Limits, Request


@pytest.mark.parametrize(("check_timeout_seconds", "expected"), [(600.0, 600.0), (30.0, 600.0), (1800.0, 1800.0)])
def test_the_limit_of_a_check_raises_that_of_every_action_and_never_lowers_it(
    check_timeout_seconds: float, expected: float
) -> None:
    settings = Settings(agent=AgentSettings(check_timeout_seconds=check_timeout_seconds))
    longest = longest_action_seconds(settings)
    action = {"run_command": {"argv": ["make"], "timeout_seconds": check_timeout_seconds}}
    request = Request("e", action, "/w", python_home(), Limits(timeout_seconds=longest))
    assert longest == expected
    assert request.timeout_seconds() == check_timeout_seconds


def test_no_action_gives_itself_more_than_the_operator_does() -> None:
    action = {"run_command": {"argv": ["make"], "timeout_seconds": 86_400.0}}
    limits = Limits(timeout_seconds=longest_action_seconds(Settings()))
    assert Request("e", action, "/w", python_home(), limits).timeout_seconds() == 600
