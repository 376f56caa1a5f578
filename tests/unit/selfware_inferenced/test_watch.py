"""How often an engine that failed is asked again."""

from __future__ import annotations

from selfware_inferenced.engines.failures import Remedy
from selfware_inferenced.watch import delay_seconds


def test_the_delay_grows_from_50_to_500_milliseconds() -> None:
    assert [delay_seconds(n, Remedy.WAIT) for n in range(1, 7)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_a_busy_engine_is_left_alone_for_longer_and_for_what_it_asked() -> None:
    assert delay_seconds(50, Remedy.PAUSE) == 10
    assert delay_seconds(1, Remedy.PAUSE, 30) == 30
    assert delay_seconds(1, Remedy.PAUSE, 99999) == 120
