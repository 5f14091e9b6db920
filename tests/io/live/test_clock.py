"""The output's own clock: whatever the sender's does, times only rise, and all is counted."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.io.live.clock import LiveClock, Placed

RATE = Fraction(25)
OUT_RATE = Fraction(50)
STEP = Fraction(1, 25)
NONE = {"backward": 0, "forward": 0, "wrap": 0, "missing": 0, "late": 0}


class Sender:
    """Places frames that come at their time, with timestamps as a test wants them."""

    def __init__(self, rate: Fraction = RATE, out_rate: Fraction = OUT_RATE) -> None:
        self.clock = LiveClock(out_rate)
        self.clock.connected(rate, now=1000)
        self.step = 1 / rate
        self.now = 1000.0
        self.stamp: Fraction = Fraction(5)
        self.placed: list[Placed] = []

    def send(self, stamp: Fraction | None = None, *, after_loss: bool = False) -> Placed:
        """Send the next frame in time: with the next timestamp, or another to go on from."""
        self.now += float(self.step)
        self.stamp = self.stamp + self.step if stamp is None else stamp
        return self.place(self.stamp, after_loss=after_loss)

    def place(self, stamp: Fraction | None, *, after_loss: bool = False) -> Placed:
        """Let a frame come now."""
        placed = self.clock.place(stamp, self.now, after_loss=after_loss)
        self.placed.append(placed)
        return placed

    def send_many(self, number: int) -> None:
        for _ in range(number):
            self.send()

    def wait(self, seconds: float) -> None:
        """Let time pass, for the sender as well."""
        self.now += seconds
        self.stamp += Fraction(seconds)

    def seconds(self, index: int = -1) -> Fraction:
        """Where a frame was placed."""
        return self.placed[index].pts * self.clock.time_base

    def steps(self) -> list[Fraction]:
        """From frame to frame."""
        return [(b.pts - a.pts) * self.clock.time_base for a, b in pairwise(self.placed)]


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


def test_frames_that_the_network_held_back_are_no_jump() -> None:
    """A burst, with continuous timestamps: each keeps its place."""
    sender = Sender()
    sender.send_many(100)
    sender.now += 4
    for _ in range(100):
        sender.now += 0.0001
        sender.stamp += STEP
        sender.place(sender.stamp)
    sender.send_many(100)
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == NONE
    assert not any(placed.late for placed in sender.placed)


def test_what_the_output_went_past_is_late_and_keeps_its_place() -> None:
    sender = Sender()
    sender.send_many(100)
    sender.clock.advance(4 + Fraction(2))  # it filled two seconds by itself
    sender.now += 2
    for _ in range(50):
        sender.now += 0.0001
        sender.stamp += STEP
        assert sender.place(sender.stamp).late
    sender.send_many(2)
    assert [placed.late for placed in sender.placed[-3:]] == [True, False, False]
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == NONE


def test_being_a_little_behind_the_next_slot_is_not_late() -> None:
    """The output is filled right up to the next frame whenever one was given."""
    sender = Sender(out_rate=RATE)
    for index in range(200):
        placed = sender.send(index * STEP + Fraction(index % 3, 500))
        assert not placed.late
        sender.clock.advance((round(sender.seconds() * 25) + 1) * STEP)
    assert sender.clock.counts == NONE


def test_a_stream_that_is_late_for_good_gets_a_new_place_once() -> None:
    """The way became three seconds longer: dropping all that comes would never end."""
    sender = Sender()
    sender.send_many(100)
    sender.now += 3
    for _ in range(200):
        sender.send()
        sender.clock.advance(sender.clock.due(sender.now - 0.5))
    assert sender.clock.counts == {**NONE, "late": 1}
    late = [placed.late for placed in sender.placed]
    assert 20 <= sum(late) <= 40
    assert not any(late[-100:])
    assert max(sender.steps()) == pytest.approx(3, abs=0.1)
    assert all(step > 0 for step in sender.steps())


def test_a_stream_that_catches_up_slowly_keeps_its_place() -> None:
    """What a stall held back comes at twice its pace, for five seconds."""
    sender = Sender()
    sender.send_many(100)
    sender.now += 5
    for _ in range(250):
        sender.now += 0.02
        sender.stamp += STEP
        sender.place(sender.stamp)
        sender.clock.advance(sender.clock.due(sender.now - 0.5))
    sender.send_many(10)
    assert set(sender.steps()) == {STEP}
    assert sender.clock.counts == NONE
    assert sum(placed.late for placed in sender.placed) > 100
    assert not sender.placed[-1].late


def test_a_new_connection_is_placed_by_its_arrival_and_breaks() -> None:
    sender = Sender()
    sender.send_many(100)
    sender.now += 30
    sender.clock.connected(RATE, now=sender.now)
    placed = sender.send(Fraction(0))
    assert placed.breaks
    assert placed.discontinuity is None
    assert sender.seconds() == sender.seconds(-2) + STEP + 30
    sender.send_many(50)
    assert set(sender.steps()[101:]) == {STEP}
    assert sender.clock.counts == NONE


def test_a_new_connection_may_have_another_rate() -> None:
    sender = Sender()
    sender.send_many(100)
    sender.now += 1
    sender.clock.connected(Fraction(10), now=sender.now)
    sender.step = Fraction(1, 10)
    sender.send(Fraction(77))
    sender.send_many(50)
    assert set(sender.steps()[100:]) == {Fraction(1, 10)}
    assert [placed.breaks for placed in sender.placed].count(True) == 2


def test_a_new_connection_is_after_all_that_the_output_filled() -> None:
    sender = Sender()
    sender.send_many(100)
    sender.clock.advance(Fraction(1000))
    sender.clock.advance(Fraction(10))  # nothing is taken back
    sender.clock.connected(RATE, now=sender.now)
    assert not sender.send(Fraction(0)).late
    assert sender.seconds() == 1000


def test_a_jump_is_placed_after_all_that_the_output_filled() -> None:
    sender = Sender()
    sender.send_many(100)
    sender.clock.advance(Fraction(6))
    assert sender.send(Fraction(0)).discontinuity == "backward"
    assert sender.seconds() == 6


def test_anchors_lie_on_slots_of_the_output() -> None:
    """Where frames then come in the middle of slots, jitter cannot push them into the next."""
    sender = Sender()
    for number in range(1, 20):
        sender.send_many(7)
        sender.now += 0.1234 * number
        sender.clock.connected(RATE, now=sender.now)
        sender.send(Fraction(number))
        assert (sender.seconds() * OUT_RATE).denominator == 1


def test_a_camera_that_counts_frames_instead_of_time_is_kept_in_real_time() -> None:
    """It says 25 a second, and sends 20: output time may not fall behind for good."""
    sender = Sender()
    worst = 0.0
    for index in range(6000):
        sender.now = 1000 + index / 20
        sender.stamp += STEP
        sender.place(sender.stamp)
        sender.clock.advance(sender.clock.due(sender.now - 0.5))
        worst = max(worst, index / 20 - float(sender.seconds()))
    assert worst < 5
    assert 10 < sender.clock.counts["late"] < 40
    assert all(step > 0 for step in sender.steps())


def test_due_follows_real_time_from_the_arrivals() -> None:
    sender = Sender()
    sender.send_many(100)
    assert sender.clock.due(sender.now) == sender.seconds()
    assert sender.clock.due(sender.now + 2.5) == sender.seconds() + Fraction(5, 2)
    assert sender.clock.due(sender.now - 1000) == 0


def test_before_the_first_frame_due_goes_from_the_connection_on() -> None:
    clock = LiveClock(OUT_RATE)
    clock.connected(RATE, now=50)
    assert clock.due(53) == 3


def test_due_goes_on_through_an_outage() -> None:
    sender = Sender()
    sender.send_many(100)
    sender.clock.connected(RATE, now=sender.now + 600)
    assert sender.clock.due(sender.now + 3600) == sender.seconds() + 3600


def test_a_frame_before_any_connection_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="before a connection"):
        LiveClock(RATE).place(Fraction(0), 0.0)


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        LiveClock(Fraction(0))
    with pytest.raises(ValueError, match="rate must be positive, got -25"):
        LiveClock(RATE).connected(Fraction(-25), now=0)
