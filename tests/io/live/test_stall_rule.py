"""Silence is judged by a stream's own rate and keyframes."""

from fractions import Fraction

import pytest

from upframe.io.live.live_input import StallRule


@pytest.mark.parametrize(
    ("rate", "gop", "stalled", "lost"),
    [
        (Fraction(25), None, 1.0, 10.0),
        (Fraction(25), Fraction(2), 1.0, 10.0),
        (Fraction(25), Fraction(4), 1.0, 12.0),
        (Fraction(25), Fraction(20), 1.0, 60.0),
        (Fraction(30000, 1001), Fraction(2), 1.0, 10.0),
        (Fraction(4), None, 2.0, 10.0),
        (Fraction(1), None, 8.0, 20.0),
        (Fraction(1), Fraction(10), 8.0, 30.0),
        (Fraction(1, 5), None, 40.0, 100.0),
    ],
)
def test_limits_follow_the_stream(
    rate: Fraction, gop: Fraction | None, stalled: float, lost: float
) -> None:
    rule = StallRule(rate, gop)
    assert rule.judge(0) == "running"
    assert rule.judge(stalled - 0.01) == "running"
    assert rule.judge(stalled) == "stalled"
    assert rule.judge(lost - 0.01) == "stalled"
    assert rule.judge(lost) == "lost"
    assert rule.judge(1e9) == "lost"


def test_what_the_user_says_counts_instead_of_the_streams_own_limit() -> None:
    rule = StallRule(Fraction(25), Fraction(20), 3)
    assert [rule.judge(s) for s in (0.9, 1, 2.9, 3)] == ["running", "stalled", "stalled", "lost"]


def test_a_limit_below_that_of_a_stall_is_lost_at_once() -> None:
    rule = StallRule(Fraction(25), None, 0.5)
    assert [rule.judge(seconds) for seconds in (0.49, 0.5)] == ["running", "lost"]


def test_the_keyframe_interval_is_learned() -> None:
    rule = StallRule(Fraction(25), None)
    assert rule.judge(20) == "lost"
    rule.observed(Fraction(8))
    assert rule.judge(20) == "stalled"
    assert rule.judge(24) == "lost"


def test_the_longest_of_the_last_keyframe_intervals_counts_and_is_forgotten_in_the_end() -> None:
    """Cameras that spare keyframes while nothing moves have intervals of all lengths."""
    rule = StallRule(Fraction(25), Fraction(2))
    rule.observed(10.0)
    rule.observed(2.0)
    assert rule.judge(29) == "stalled"
    for _ in range(4):
        rule.observed(2.0)
    assert rule.judge(29) == "lost"


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        StallRule(Fraction(0), None)
