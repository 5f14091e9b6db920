"""The clock and the grid together: an output without holes, whatever the sender does."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.daemon.live.output import FrameScheduler, FrameSlot
from upframe.io.live.clock import LiveClock

RATE = Fraction(25)
PATIENCE = Fraction(1, 2)
WRAP = Fraction(2**33, 90_000)


class Output:
    """Frames in, slots out: one picture in the middle of two frames, and repeats for silence."""

    def __init__(self, rate: Fraction = RATE) -> None:
        self.clock = LiveClock(2 * rate)
        self.clock.connected(rate, now=0)
        self.grid: FrameScheduler[int] = FrameScheduler(2 * rate)
        self.slots: list[FrameSlot[int]] = []
        self.before: Fraction | None = None
        self.number = 0

    def frame(self, seconds: Fraction | None, arrived: float) -> None:
        placed = self.clock.place(seconds, arrived)
        time = placed.pts * self.clock.time_base
        self.number += 1
        if self.before is not None and not placed.breaks:
            self.give(self.grid.enter((self.before + time) / 2, self.number))
        self.number += 1
        self.give(self.grid.enter(time, self.number))
        self.before = time

    def pass_time(self, now: float) -> None:
        """Fill what is overdue."""
        self.give(self.grid.fill(self.clock.due(now) - PATIENCE))

    def give(self, slots: list[FrameSlot[int]]) -> None:
        self.slots += slots
        self.clock.advance(self.grid.next_time)

    def check(self, repeated: int) -> None:
        """Every slot once, in order; no more repeats than that, and nothing late."""
        assert [slot.index for slot in self.slots] == list(range(len(self.slots)))
        assert self.grid.counts["repeated"] <= repeated
        assert self.grid.counts["late"] == 0


@pytest.mark.parametrize("drift", [-2e-4, 0, 2e-4])
def test_jitter_costs_nothing_and_drift_a_slot_each_time_it_has_made_one(drift: float) -> None:
    chance = random.Random(1)
    output = Output()
    for index in range(600 * 25):
        true = index / 25 * (1 + drift)
        stamp = Fraction(round((true + chance.uniform(-0.005, 0.005)) * 90_000), 90_000)
        arrived = index / 25 + chance.uniform(0, 0.1)
        output.pass_time(arrived)
        output.frame(stamp, arrived)
    drifted = abs(drift) * 600 * 50
    output.check(repeated=round(drifted) + 1 if drift > 0 else 1)
    assert output.grid.counts["surplus"] <= drifted + 1


@pytest.mark.parametrize("jump", [10, -10, 100, -100, 1.1, -0.3])
def test_a_jump_costs_the_picture_between_and_nothing_else(jump: float) -> None:
    output = Output()
    for index in range(500):
        output.pass_time(index / 25)
        output.frame(Fraction(index, 25) + (Fraction(jump) if index >= 250 else 1000), index / 25)
    output.check(repeated=1)
    assert len(output.slots) == 999
    assert sum(output.clock.counts.values()) == 1


def test_a_wrap_costs_nothing() -> None:
    output = Output()
    for index in range(500):
        output.frame((WRAP - 10 + Fraction(index, 25)) % WRAP, index / 25)
    output.check(repeated=0)
    assert output.clock.counts["wrap"] == 1


def test_missing_timestamps_cost_nothing() -> None:
    output = Output()
    for index in range(500):
        output.pass_time(index / 25)
        output.frame(None if index % 7 in (2, 3) else Fraction(index, 25), index / 25)
    output.check(repeated=0)
    assert output.clock.counts["missing"] == 143


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30_000, 1001), Fraction(60)])
def test_stamps_in_milliseconds_cost_nothing(rate: Fraction) -> None:
    """As of RTMP."""
    output = Output(rate)
    for index in range(1000):
        output.frame(Fraction(round(index / rate * 1000), 1000), float(index / rate))
    output.check(repeated=0)
    assert len(output.slots) == 1999


def test_an_outage_is_filled_up_and_the_new_connection_follows_at_once() -> None:
    output = Output()
    now = 0.0
    for connection in range(20):
        output.clock.connected(RATE, now=now)
        for index in range(100):
            output.frame(connection * 77 + Fraction(index, 25), now)
            now += 0.04
        for _ in range(connection * 10):  # nobody is there
            now += 0.04
            output.pass_time(now)
    output.check(repeated=10**6)
    length = len(output.slots) / 50
    assert length == pytest.approx(now - 0.5, abs=0.6)
    fresh = [slot for slot in output.slots if not slot.is_repeat]
    assert len(fresh) == 20 * 199


def test_segments_that_come_at_once_are_not_filled_up_between() -> None:
    """HLS: each brings six seconds."""
    output = Output()
    for segment in range(20):
        for tenth in range(60):
            output.pass_time(segment * 6 + tenth / 10)
            if tenth == 0:
                for index in range(150):
                    output.frame(segment * 6 + Fraction(index, 25), segment * 6 + index / 10_000)
    output.check(repeated=0)
    assert len(output.slots) == 20 * 300 - 1


def test_a_stall_of_the_network_is_filled_and_what_comes_late_is_left_out() -> None:
    output = Output()
    for index in range(1000):
        arrived = 20.0 if 300 <= index < 500 else index / 25  # eight seconds held back
        if index == 300:
            for tenth in range(80):
                output.pass_time(12 + tenth / 10)
        output.frame(Fraction(index, 25), arrived)
    indexes = [slot.index for slot in output.slots]
    assert indexes == list(range(1999))
    assert 300 < output.grid.counts["late"] < 400  # 7.5 s of it
    assert sum(output.clock.counts.values()) == 0
    assert all(a.item <= b.item for a, b in pairwise(output.slots))
    assert not any(slot.is_repeat for slot in output.slots[1100:])


@pytest.mark.parametrize("fps", [10, 12.5, 20, 24, 30, 50])
def test_a_camera_that_keeps_another_rate_fills_the_same_slots(fps: float) -> None:
    output = Output()
    for index in range(round(60 * fps)):
        output.pass_time(index / fps)
        output.frame(Fraction(index / fps).limit_denominator(90_000), index / fps)
    assert [slot.index for slot in output.slots] == list(range(len(output.slots)))
    assert len(output.slots) / 50 == pytest.approx(60, abs=0.3)
    assert output.grid.counts["late"] <= 2
    fresh = sum(not slot.is_repeat for slot in output.slots)
    assert fresh >= 0.95 * min(len(output.slots), 2 * 60 * fps)
