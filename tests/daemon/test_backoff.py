"""Attempts to connect: often at first, ever more seldom, never in step."""

import random

import pytest

from upframe.daemon.backoff import SteppedBackoff


def steps_until(backoff: SteppedBackoff, seconds: float) -> dict[float, float]:
    """Wait for so long altogether, and give how long each step lasted."""
    lasted: dict[float, float] = {}
    waited = 0.0
    while waited < seconds:
        delay = backoff.next_seconds()
        lasted[backoff.step_seconds] = lasted.get(backoff.step_seconds, 0.0) + delay
        waited += delay
    return lasted


def test_a_delay_leaves_three_tenths_to_half_of_its_step_for_connecting() -> None:
    assert SteppedBackoff(chance=lambda: 0.0).next_seconds() == 0.5
    assert abs(SteppedBackoff(chance=lambda: 1.0).next_seconds() - 0.7) < 1e-9


def test_what_an_attempt_took_is_part_of_the_delay() -> None:
    backoff = SteppedBackoff(chance=lambda: 0.0)
    assert backoff.next_seconds(spent_seconds=0.4) == pytest.approx(0.1)
    assert backoff.next_seconds(spent_seconds=3.0) == 0.0


def test_attempts_that_take_long_reach_the_longer_steps_as_soon_as_others() -> None:
    quick, slow = (SteppedBackoff(random.Random(5).random) for _ in range(2))
    for _ in range(100):
        quick.next_seconds()
        slow.next_seconds(spent_seconds=0.4)
        assert slow.step_seconds == quick.step_seconds


def test_the_steps_are_those_of_go2rtc_and_the_last_one_stays() -> None:
    lasted = steps_until(SteppedBackoff(random.Random(1).random), 3600)
    assert list(lasted) == [1, 5, 10, 60]
    for step, row in ((1, 5), (5, 25), (10, 100)):
        assert row - step <= lasted[step] <= row + step


def test_all_through_an_outage_of_25_seconds_the_step_is_5_seconds_at_most() -> None:
    """However short the delays that chance gives, and however fast the attempts fail."""
    for seed in range(200):
        backoff = SteppedBackoff(random.Random(seed).random)
        waited = 0.0
        while waited <= 25:
            waited += backoff.next_seconds()
            assert backoff.step_seconds <= 5


def test_two_who_lost_the_same_server_do_not_return_together() -> None:
    delays = {SteppedBackoff().next_seconds() for _ in range(100)}
    assert len(delays) > 90
    assert all(0.5 <= delay <= 0.7 for delay in delays)


def test_two_seconds_of_good_frames_start_it_anew_and_less_does_not() -> None:
    backoff = SteppedBackoff(random.Random(2).random)
    steps_until(backoff, 200)
    backoff.held(1.9)
    assert backoff.step_seconds == 60
    backoff.next_seconds()
    assert backoff.step_seconds == 60
    backoff.held(2)
    assert backoff.step_seconds == 1
    assert backoff.next_seconds() < 1


def test_where_trying_soon_is_of_no_use_the_longest_step_is_taken_at_once_and_stays() -> None:
    backoff = SteppedBackoff(random.Random(3).random)
    assert 30 <= backoff.longest_seconds() <= 42
    assert backoff.step_seconds == 60
    assert backoff.next_seconds() >= 30


def test_before_any_delay_the_step_is_the_first() -> None:
    assert SteppedBackoff().step_seconds == 1
