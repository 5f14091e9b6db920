"""The even row behind timestamps: smooth, and true in the long run."""

import random
import statistics
from itertools import pairwise

import pytest

from upframe.io.live.clock import StepFilter

INTERVAL = 0.04


def positions(pace: StepFilter, stamps: list[float]) -> list[float]:
    """Where the row puts frames of these timestamps; the first one is at its own."""
    placed = [stamps[0]]
    for stamp in stamps[1:]:
        error = stamp - placed[-1] - pace.interval
        assert not pace.is_backward(error)
        assert not pace.is_forward(error)
        placed.append(placed[-1] + pace.step(error).seconds)
    return placed


def jittered(interval: float, number: int, jitter: float, seed: int = 1) -> list[float]:
    """Timestamps that stray from an even row."""
    chance = random.Random(seed)
    return [index * interval + chance.uniform(-jitter, jitter) for index in range(number)]


def test_an_even_row_stays_as_it_is() -> None:
    stamps = [index * INTERVAL for index in range(1000)]
    assert positions(StepFilter(INTERVAL), stamps) == pytest.approx(stamps, abs=1e-9)


def test_of_five_milliseconds_of_jitter_steps_keep_a_tenth_and_positions_a_half() -> None:
    placed = positions(StepFilter(INTERVAL), jittered(INTERVAL, 5000, 0.005))
    away = [position - index * INTERVAL for index, position in enumerate(placed)][100:]
    assert max(map(abs, away)) < 0.0035
    assert statistics.pstdev(away) < 0.001
    steps = [after - before for before, after in pairwise(placed[100:])]
    assert max(abs(step - INTERVAL) for step in steps) < 0.0006


@pytest.mark.parametrize("fps", [12.5, 15, 20, 24, 24.9, 25.1, 30, 50])
def test_a_pace_that_is_not_the_nominal_one_is_learned(fps: float) -> None:
    pace = StepFilter(INTERVAL)
    placed = positions(pace, jittered(1 / fps, 3000, 0.004))
    assert pace.interval == pytest.approx(1 / fps, rel=0.01)
    away = [position - index / fps for index, position in enumerate(placed)][1000:]
    assert max(map(abs, away)) < 0.003


def test_a_pace_that_changes_is_followed_within_a_second() -> None:
    """As a camera's does in the dark."""
    stamps = [index * 0.04 for index in range(100)]
    stamps += [stamps[-1] + index / 12.5 for index in range(1, 100)]
    pace = StepFilter(INTERVAL)
    positions(pace, stamps[:125])
    assert pace.interval == pytest.approx(0.08, rel=0.02)


def test_jitter_beyond_the_interval_itself_is_no_other_pace() -> None:
    pace = StepFilter(1 / 240)
    placed = positions(pace, jittered(1 / 240, 20_000, 0.005))
    assert pace.interval == pytest.approx(1 / 240, rel=0.02)
    assert placed[-1] == pytest.approx(19_999 / 240, abs=0.005)
    assert all(before < after for before, after in pairwise(placed))


def test_a_loss_is_told_by_the_intervals_of_a_step() -> None:
    pace = StepFilter(INTERVAL)
    assert [pace.step(error).intervals for error in (0.0, 0.04, 0.0, 0.081, 0.003)] == [
        1,
        2,
        1,
        3,
        1,
    ]


@pytest.mark.parametrize(
    ("error", "backward", "forward"),
    [
        (0.0, False, False),
        (-0.05, False, False),  # 10 ms before the frame before: jitter
        (-0.07, True, False),
        (-10.0, True, False),
        (0.99, False, False),  # lost frames
        (1.01, False, True),
    ],
)
def test_jumps_are_told_from_jitter_and_losses(error: float, backward: bool, forward: bool) -> None:
    pace = StepFilter(INTERVAL)
    assert pace.is_backward(error) == backward
    assert pace.is_forward(error) == forward


def test_a_slow_stream_may_lose_a_frame_without_a_jump() -> None:
    assert not StepFilter(1.0).is_forward(1.9)
    assert StepFilter(1.0).is_forward(2.1)


def test_timestamps_that_stand_still_are_told_as_a_jump_in_the_end() -> None:
    pace, position = StepFilter(INTERVAL), 0.0
    for number in range(100):
        error = 0.0 - position - pace.interval
        if pace.is_backward(error):
            assert number > 5
            return
        position += pace.step(error).seconds
    raise AssertionError("timestamps that stood still were followed")


def test_a_new_row_knows_nothing_of_the_old_ones_jitter() -> None:
    pace = StepFilter(INTERVAL)
    pace.step(0.015)
    pace.restart()
    assert not pace.is_backward(-0.058)


def test_without_timestamps_arrivals_steer_and_their_jitter_hardly_shows() -> None:
    chance = random.Random(7)
    pace, position = StepFilter(INTERVAL), 0.0
    worst = 0.0
    for index in range(1, 20_000):
        arrival = index / 20 + chance.uniform(0, 0.05)
        step = pace.steer(arrival - position - pace.interval)
        assert step.seconds > 0
        position += step.seconds
        if index > 2000:
            worst = max(worst, abs(position - index / 20 - 0.025))
    assert worst < 0.02
    assert pace.interval == pytest.approx(1 / 20, rel=0.02)
