"""When frames may be shown: pure values, stepped."""

from __future__ import annotations

from fractions import Fraction

import pytest

from upframe.io.live.frames import GapDetector, KeyframeGate

RATE = 25


def shown(gate: KeyframeGate, keyframes: set[int], numbers: range) -> list[int]:
    return [n for n in numbers if gate.passes(n, is_keyframe=n in keyframes)]


def test_nothing_is_shown_before_a_keyframe() -> None:
    gate = KeyframeGate()
    assert gate.is_shut
    assert shown(gate, {3}, range(1, 6)) == [3, 4, 5]
    assert not gate.take_loss()  # a beginning is no loss


def test_what_was_sent_before_the_damage_is_shown_also_when_it_comes_later() -> None:
    gate = KeyframeGate()
    shown(gate, {1}, range(1, 5))
    gate.shut(8, opens_at=9)
    assert shown(gate, {10}, range(5, 13)) == [5, 6, 7, 10, 11, 12]


def test_a_keyframe_that_may_be_damaged_itself_opens_nothing() -> None:
    gate = KeyframeGate()
    shown(gate, {1}, range(1, 5))
    gate.shut(5, opens_at=8)
    assert shown(gate, {7, 12}, range(5, 14)) == [12, 13]


def test_more_damage_puts_the_opening_off_and_loses_no_older_frame() -> None:
    gate = KeyframeGate()
    shown(gate, {1}, range(1, 3))
    gate.shut(5, opens_at=6)
    gate.shut(9, opens_at=10)
    assert shown(gate, {8, 11}, range(3, 13)) == [3, 4, 11, 12]


def test_a_loss_is_told_once_with_the_first_frame_after_it() -> None:
    gate = KeyframeGate()
    gate.passes(1, is_keyframe=True)
    gate.shut(3, opens_at=4)
    assert gate.passes(2, is_keyframe=False)
    assert not gate.take_loss()  # this one is from before
    assert gate.passes(4, is_keyframe=True)
    assert gate.take_loss()
    assert not gate.take_loss()


def holes_in(times: list[Fraction | None]) -> list[int]:
    holes = GapDetector()
    return [index for index, seconds in enumerate(times) if holes.before(seconds)]


def test_a_missing_packet_of_a_regular_stream_is_found() -> None:
    times = [Fraction(n, RATE) for n in range(40) if n not in (15, 30, 31)]
    assert holes_in([*times]) == [15, 29]


def test_jitter_is_no_hole() -> None:
    times = [Fraction(n, RATE) + Fraction(n * 7 % 5, 1000) for n in range(100)]
    assert holes_in([*times]) == []


@pytest.mark.parametrize("steps", [[1, 2, 1, 3], [1, 1, 1, 2], [5, 1, 1, 1]])
def test_a_stream_of_a_variable_rate_has_no_holes(steps: list[int]) -> None:
    times: list[Fraction | None] = []
    now = Fraction(0)
    for n in range(80):
        now += Fraction(steps[n % len(steps)], RATE)
        times.append(now)
    assert holes_in(times) == []


def test_a_change_of_rate_is_a_hole_at_most_once() -> None:
    slow = [Fraction(2) + Fraction(2 * n, RATE) for n in range(30)]
    assert len(holes_in([*(Fraction(n, RATE) for n in range(50)), *slow])) <= 1


def test_packets_without_timestamps_tell_nothing() -> None:
    times: list[Fraction | None] = [Fraction(n, RATE) for n in range(20)]
    times[15] = None
    assert holes_in(times) == []
