"""The nominal rate of a live stream: a pure function of what it claims and what it does."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from upframe.io.live.live_input import DEFAULT_RATE, agreed_rate, nominal_rate

NTSC = Fraction(30_000, 1001)


def times_at(
    rate: Fraction | float, count: int = 12, jitter_seconds: float = 0.0
) -> list[Fraction]:
    chance = random.Random(1)
    interval = 1 / Fraction(rate)
    return [
        Fraction(round((n * interval + Fraction(chance.uniform(-1, 1) * jitter_seconds)) * 90_000))
        / 90_000
        for n in range(count)
    ]


@pytest.mark.parametrize("rate", [Fraction(15), Fraction(25), NTSC, Fraction(25, 2), Fraction(60)])
def test_a_claim_that_the_timestamps_bear_out_is_meant(rate: Fraction) -> None:
    assert agreed_rate(times_at(rate, 4), [rate, rate]) == rate
    assert nominal_rate(times_at(rate), [rate]) == rate


def test_a_claim_that_they_do_not_bear_out_is_not() -> None:
    times = times_at(15)
    assert agreed_rate(times, [Fraction(25), Fraction(25)]) is None
    assert nominal_rate(times, [Fraction(25), Fraction(50)]) == 15


def test_claims_that_differ_are_not_agreed_on() -> None:
    assert agreed_rate(times_at(25), [Fraction(25), Fraction(50)]) is None
    assert agreed_rate(times_at(25), [Fraction(25), None]) is None
    assert nominal_rate(times_at(25), [Fraction(50), Fraction(25)]) == 25


def test_a_few_timestamps_are_waited_for() -> None:
    assert agreed_rate(times_at(25, 3), [Fraction(25), Fraction(25)]) is None


@pytest.mark.parametrize("rate", [15, 25, 30, 50])
def test_jitter_of_a_tenth_of_a_frame_does_not_make_a_crooked_rate(rate: int) -> None:
    jittering = times_at(rate, jitter_seconds=0.1 / rate)
    assert nominal_rate(jittering, [None]) == rate
    assert nominal_rate(jittering, [Fraction(rate), Fraction(9131, 363)]) == rate


def test_even_timestamps_tell_30000_1001_from_30() -> None:
    assert (nominal_rate(times_at(NTSC), []), nominal_rate(times_at(30), [])) == (NTSC, 30)


def test_holes_and_bursts_do_not_change_it() -> None:
    times = [time for index, time in enumerate(times_at(25, 20)) if index not in (4, 5, 11)]
    assert nominal_rate(times, []) == 25
    assert nominal_rate([*times, times[3] + Fraction(1, 90_000)], []) == 25


def test_an_unusual_rate_is_taken_as_measured() -> None:
    assert abs(nominal_rate(times_at(Fraction(68, 10)), []) - Fraction(68, 10)) < Fraction(1, 20)


def test_without_timestamps_the_first_plausible_claim_must_do() -> None:
    assert nominal_rate([], [Fraction(90_000), None, Fraction(20)]) == 20
    assert nominal_rate([], []) == DEFAULT_RATE


def test_the_order_of_packets_does_not_matter() -> None:
    times = times_at(25)
    assert nominal_rate([*times[::2], *times[1::2]], []) == 25
