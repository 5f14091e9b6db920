"""The output's own clock against arrivals: late ones, connections, and what is due."""

from fractions import Fraction

import pytest
from support.live.clocks import NONE, OUT_RATE, RATE, STEP, Sender

from upframe.io.live.clock import LiveClock


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
