"""Attempts to connect: often at first, ever more seldom, never in step."""

import itertools
import math
import random

import pytest

from upframe.daemon.backoff import STEPS, STORE_STEPS, Backoff
from upframe.daemon.mqtt.connection import connection_backoff


def steps_until(backoff: Backoff, seconds: float) -> dict[float, float]:
    """Wait for so long altogether, and give how long each step lasted."""
    lasted: dict[float, float] = {}
    waited = 0.0
    while waited < seconds:
        step = backoff.step_seconds
        delay = backoff.next_seconds()
        lasted[step] = lasted.get(step, 0.0) + delay
        waited += delay
    return lasted


def test_a_delay_leaves_three_tenths_to_half_of_its_step_for_connecting() -> None:
    assert Backoff(chance=lambda: 0.0).next_seconds() == 0.5
    assert abs(Backoff(chance=lambda: 1.0).next_seconds() - 0.7) < 1e-9


def test_what_an_attempt_took_is_part_of_the_delay() -> None:
    backoff = Backoff(chance=lambda: 0.0)
    assert backoff.next_seconds(spent_seconds=0.4) == pytest.approx(0.1)
    assert backoff.next_seconds(spent_seconds=3.0) == 0.0


def test_attempts_that_take_long_reach_the_longer_steps_as_soon_as_others() -> None:
    quick, slow = (Backoff(chance=random.Random(5).random) for _ in range(2))
    for _ in range(100):
        quick.next_seconds()
        slow.next_seconds(spent_seconds=0.4)
        assert slow.step_seconds == quick.step_seconds


def test_the_steps_are_those_of_go2rtc_and_the_last_one_stays() -> None:
    lasted = steps_until(Backoff(chance=random.Random(1).random), 3600)
    assert list(lasted) == [1, 5, 10, 60]
    for step, row in ((1, 5), (5, 25), (10, 100)):
        assert row - step <= lasted[step] <= row + step


def test_all_through_an_outage_of_25_seconds_the_step_is_5_seconds_at_most() -> None:
    """However short the delays that chance gives, and however fast the attempts fail."""
    for seed in range(200):
        backoff = Backoff(chance=random.Random(seed).random)
        waited = 0.0
        while waited <= 25:
            assert backoff.step_seconds <= 5
            waited += backoff.next_seconds()


def test_two_who_lost_the_same_server_do_not_return_together() -> None:
    delays = {Backoff().next_seconds() for _ in range(100)}
    assert len(delays) > 90
    assert all(0.5 <= delay <= 0.7 for delay in delays)


def test_two_seconds_of_good_frames_start_it_anew_and_less_does_not() -> None:
    backoff = Backoff(chance=random.Random(2).random)
    steps_until(backoff, 200)
    backoff.held(1.9)
    assert backoff.step_seconds == 60
    backoff.next_seconds()
    assert backoff.step_seconds == 60
    backoff.held(2)
    assert backoff.step_seconds == 1
    assert backoff.next_seconds() < 1


def test_where_trying_soon_is_of_no_use_the_longest_step_is_taken_at_once_and_stays() -> None:
    backoff = Backoff(chance=random.Random(3).random)
    assert 30 <= backoff.longest_seconds() <= 42
    assert backoff.step_seconds == 60
    assert backoff.next_seconds() >= 30


def test_before_any_delay_the_step_is_the_first() -> None:
    assert Backoff().step_seconds == 1


def test_a_delay_is_any_part_that_is_allowed_of_its_step() -> None:
    parts = itertools.cycle((0.0, 0.25))
    backoff = Backoff(((2.0, 0.5), (4.0, math.inf)), parts=(0.0, 1.0), chance=lambda: next(parts))
    assert [backoff.next_seconds() for _ in range(4)] == [0, 0.5, 0, 1]


def test_full_jitter_gives_any_delay_up_to_the_step() -> None:
    delays = {Backoff(((60.0, math.inf),), parts=(0.0, 1.0)).next_seconds() for _ in range(100)}
    assert len(delays) > 90
    assert all(0 <= delay <= 60 for delay in delays)


def test_a_fair_connection_shortens_the_delays_and_a_good_one_begins_with_the_first() -> None:
    backoff = connection_backoff()
    backoff.longest_seconds()
    backoff.held(4)  # no better than none
    assert backoff.step_seconds == 60
    backoff.held(5)
    assert backoff.step_seconds == 10
    backoff.held(60)
    assert backoff.step_seconds == 1


def test_where_trying_soon_is_of_no_use_half_of_the_longest_step_is_the_least() -> None:
    least, most = (Backoff(parts=(0.0, 1.0), chance=lambda part=part: part) for part in (0.0, 1.0))
    assert least.longest_seconds() == 30
    assert most.longest_seconds() == 60


@pytest.mark.parametrize("steps", [STEPS, STORE_STEPS])
def test_steps_grow_and_the_last_one_is_for_ever(steps: list[tuple[float, float]]) -> None:
    assert list(steps) == sorted(steps)
    assert steps[-1][1] == math.inf


def test_a_reset_begins_with_the_first_step() -> None:
    backoff = Backoff()
    backoff.longest_seconds()
    backoff.reset()
    assert backoff.step_seconds == 1
