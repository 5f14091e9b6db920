"""The output's own clock: whatever timestamps do, times only rise, and all is counted."""

import random
from fractions import Fraction

import pytest
from support.live.clocks import NONE, RATE, STEP, Sender

from upframe.io.live.clock import LiveClock


def test_good_timestamps_are_kept_exactly_from_zero_on() -> None:
    sender = Sender()
    sender.send_many(1000)
    assert [sender.seconds(index) for index in range(1000)] == [n * STEP for n in range(1000)]
    assert [placed.breaks for placed in sender.placed] == [True] + [False] * 999
    assert not any(placed.discontinuity or placed.late for placed in sender.placed)
    assert sender.clock.counts == NONE


@pytest.mark.parametrize(
    "rate", [Fraction(15), Fraction(30000, 1001), Fraction(7, 2), Fraction(24), Fraction(999983, 7)]
)
@pytest.mark.parametrize("exp", [0, 1, 3])
def test_slots_of_the_output_begin_at_whole_ticks(rate: Fraction, exp: int) -> None:
    clock = LiveClock(rate * 2**exp)
    assert (1 / (rate * 2**exp) / clock.time_base).denominator == 1
    assert clock.time_base <= Fraction(1, 90_000)
    assert clock.time_base.denominator < 2**31


def test_a_network_of_90_khz_fits_the_ticks_of_usual_rates() -> None:
    for rate in (Fraction(25), Fraction(60), Fraction(60000, 1001), Fraction(48000, 1001)):
        assert (Fraction(1, 90_000) / LiveClock(rate).time_base).denominator == 1


@pytest.mark.parametrize(
    ("jump", "kind"),
    [(10, "forward"), (-10, "backward"), (1.5, "forward"), (-0.5, "backward"), (-0.1, "backward")],
)
def test_a_jump_is_counted_and_the_output_goes_on_smoothly(jump: float, kind: str) -> None:
    sender = Sender()
    sender.send_many(100)
    placed = sender.send(sender.stamp + STEP + Fraction(jump))
    sender.send_many(100)
    assert placed.discontinuity == kind
    assert placed.breaks
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == {**NONE, kind: 1}
    assert sum(placed.breaks for placed in sender.placed) == 2


def test_a_jump_amid_frames_that_come_at_once_goes_on_smoothly() -> None:
    """Their arrival would place it long before its turn."""
    sender = Sender()
    for index in range(150):
        sender.stamp += STEP if index != 75 else 10
        sender.place(sender.stamp)
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == {**NONE, "forward": 1}


def test_times_rise_even_where_frames_come_faster_than_ticks() -> None:
    sender = Sender(Fraction(400_000))
    sender.send_many(1000)
    assert all(step > 0 for step in sender.steps())


def test_the_jitter_of_the_first_frame_is_soon_forgotten() -> None:
    sender = Sender()
    sender.send(Fraction(5) + Fraction(1, 100))
    for index in range(1, 9):
        sender.send(5 + index * STEP)
    assert abs(float(sender.seconds() - 8 * STEP + Fraction(1, 100))) < 0.003


def test_a_reset_to_zero_is_a_jump_backward() -> None:
    sender = Sender()
    sender.send_many(300)
    assert sender.send(Fraction(0)).discontinuity == "backward"
    sender.send_many(300)
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == {**NONE, "backward": 1}


@pytest.mark.parametrize("bits", [33, 32])
def test_a_wrap_is_counted_and_leaves_no_trace(bits: int) -> None:
    period = Fraction(2**bits, 90_000)
    sender = Sender()
    sender.stamp = period - 2
    sender.send_many(20)
    for _ in range(150):
        sender.send((sender.stamp + STEP) % period)
    assert sender.stamp < 5
    assert set(sender.steps()) == {STEP}
    assert [placed.breaks for placed in sender.placed] == [True] + [False] * 169
    assert sum(placed.discontinuity == "wrap" for placed in sender.placed) == 1
    assert sender.clock.counts == {**NONE, "wrap": 1}


def test_wraps_go_on_for_days() -> None:
    period = Fraction(2**33, 90_000)
    sender = Sender(Fraction(1, 10), Fraction(1, 5))
    for _ in range(20_000):  # 55 hours
        sender.send((sender.stamp + 10) % period)
    assert set(sender.steps()) == {10}
    assert sender.clock.counts == {**NONE, "wrap": 2}


def test_frames_lost_at_a_wrap_leave_a_gap_and_no_more() -> None:
    period = Fraction(2**33, 90_000)
    sender = Sender()
    sender.stamp = period - 2
    sender.send_many(40)
    sender.wait(0.8)
    assert sender.send((sender.stamp + STEP) % period).breaks
    assert sender.seconds() == sender.seconds(-2) + STEP + Fraction(4, 5)
    assert sender.clock.counts == {**NONE, "wrap": 1}


def test_a_missing_timestamp_goes_on_by_the_interval_and_is_counted() -> None:
    sender, chance = Sender(), random.Random(1)
    for index in range(300):
        sender.send()
        if index % 10 in (3, 4):
            sender.now += float(STEP) + chance.uniform(-0.02, 0.02)  # arrivals play no part
            sender.stamp += STEP
            assert sender.place(None).discontinuity == "missing"
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == {**NONE, "missing": 60}
    assert sum(placed.breaks for placed in sender.placed) == 1


@pytest.mark.parametrize("fps", [24.9, 25, 25.2, 15, 12, 30])
def test_without_any_timestamp_time_goes_by_arrivals_at_a_steady_pace(fps: float) -> None:
    sender = Sender()
    began = sender.now
    for index in range(5000):
        sender.now = began + index / fps
        sender.place(None)
    assert float(sender.seconds()) == pytest.approx(4999 / fps, abs=0.2)
    steps = sender.steps()[2000:]
    assert max(steps) - min(steps) < Fraction(1, 100)
    assert sender.clock.counts["missing"] == 5000


def test_timestamps_that_begin_later_are_taken_from_then_on() -> None:
    sender = Sender()
    for _ in range(10):
        sender.now += float(STEP)
        sender.place(None)
    sender.send_many(100)
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == {**NONE, "missing": 10}
    assert sender.clock.sound(sender.stamp, sender.now) == sender.seconds()


def test_without_timestamps_a_silence_stays_one() -> None:
    sender = Sender()
    for index in range(200):
        sender.now += 5.04 if index == 100 else 0.04
        sender.place(None)
    assert sum(step > 4 for step in sender.steps()) == 1
    assert [placed.breaks for placed in sender.placed].count(True) == 2
    assert float(sender.seconds()) == pytest.approx(199 * 0.04 + 5, abs=0.1)


@pytest.mark.parametrize(("lost", "breaks"), [(1, False), (2, True), (3, True), (20, True)])
def test_lost_frames_leave_their_gap_and_more_than_one_breaks(lost: int, breaks: bool) -> None:
    sender = Sender()
    sender.send_many(50)
    sender.wait(lost / 25)
    assert sender.send().breaks == breaks
    assert float(sender.steps()[-1]) == pytest.approx((lost + 1) / 25, abs=1e-4)
    assert sender.clock.counts == NONE


def test_after_a_loss_nothing_is_interpolated_whatever_the_timestamps_say() -> None:
    sender = Sender()
    sender.send_many(3)
    assert sender.send(after_loss=True).breaks
    assert not sender.send().breaks
    assert set(sender.steps()) == {STEP}


def test_a_frame_before_any_connection_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="before a connection"):
        LiveClock(RATE).place(Fraction(0), 0.0)


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        LiveClock(Fraction(0))
    with pytest.raises(ValueError, match="rate must be positive, got -25"):
        LiveClock(RATE).connected(Fraction(-25), now=0)
