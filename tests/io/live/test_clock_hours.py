"""Hours of drift and jitter, in no time; and whatever chance makes of a sender."""

import random
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.io.live.clock import LiveClock, PlacedFrame

KHZ_90 = 90_000


def stamp(seconds: float) -> Fraction:
    """A timestamp as MPEG-TS and RTP carry it."""
    return Fraction(round(seconds * KHZ_90), KHZ_90)


@pytest.mark.parametrize(
    ("drift", "hours", "fps"), [(2e-4, 24, 1), (-2e-4, 24, 1), (2e-4, 1, 25), (-2e-4, 1, 25)]
)
def test_drift_is_kept_jitter_is_not_and_sound_stays(drift: float, hours: int, fps: int) -> None:
    """The sender's clock drifts against ours, its timestamps jitter, its packets even more."""
    chance = random.Random(1)
    clock = LiveClock(Fraction(2 * fps))
    clock.connected(Fraction(fps), now=0)
    worst = worst_sound = worst_due = 0.0
    last = -1.0
    for index in range(hours * 3600 * fps):
        true = index / fps * (1 + drift)
        arrived = index / fps + chance.uniform(0, 0.05)
        placed = clock.place(stamp(true + chance.uniform(-0.005, 0.005)), arrived)
        position = float(placed.pts * clock.time_base)
        assert position > last
        last = position
        if index < 50:
            continue
        worst = max(worst, abs(position - true))
        if index % 10 == 0:
            sound = clock.sound(stamp(true), arrived)
            assert sound is not None
            worst_sound = max(worst_sound, abs(float(sound) - position))
            worst_due = max(worst_due, abs(float(clock.due(arrived)) - position))
    assert worst < 0.010  # 5 ms of it is the first frame's jitter, which nobody can know
    assert worst_sound < 0.010
    assert worst_due < 0.070
    assert not any(clock.counts.values())


def test_months_lose_no_precision() -> None:
    """A tick is still a tick after a year of seconds."""
    clock = LiveClock(Fraction(60_000, 1001))
    clock.connected(Fraction(30_000, 1001), now=0)
    step = Fraction(1001, 30_000)
    year = 365 * 86_400
    clock.place(Fraction(0), 0.0)
    clock.advance(Fraction(year))
    clock.connected(Fraction(30_000, 1001), now=year)
    pts = [clock.place(year + n * step, float(year + n * step)).pts for n in range(1000)]
    assert {(b - a) * clock.time_base for a, b in pairwise(pts)} == {step}


@dataclass
class Trouble:
    """A sender to which anything may happen, and an output that is filled as time goes by."""

    seed: int
    chance: random.Random = field(init=False)
    now: float = 1000.0
    sender: float = 0.0
    """What its clock is ahead of ours."""
    events: int = 0
    placed: list[PlacedFrame] = field(default_factory=list[PlacedFrame])
    sound: list[Fraction] = field(default_factory=list[Fraction])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.fps = self.chance.choice([5, 15, 25, 30, 60])
        self.clock = LiveClock(Fraction(2 * self.fps))
        self.connect()

    def connect(self) -> None:
        self.clock.connected(Fraction(self.fps), now=self.now)
        self.sender = self.chance.uniform(-1e5, 1e5)

    def happen(self) -> None:
        """Let something go wrong."""
        self.events += 1
        kind = self.chance.randrange(6)
        if kind == 0:
            self.sender += self.chance.uniform(-20, 20)
        elif kind == 1:  # frames are lost
            self.now += self.chance.uniform(0, 3)
        elif kind == 2:  # an outage
            self.now += self.chance.uniform(0, 100)
            self.connect()
        elif kind == 3:  # the network holds frames back
            self.burst(self.chance.randint(1, 3 * self.fps))
        elif kind == 4:
            self.place(None, self.now)
        else:
            self.sender = -self.now

    def burst(self, number: int) -> None:
        """Send frames that come all at once, at the time of the last one."""
        end = self.now + number / self.fps
        for _ in range(number):
            self.now += 1 / self.fps
            self.place(stamp(self.now + self.sender), end)
        self.now = end

    def place(self, seconds: Fraction | None, arrived: float) -> None:
        """Let a frame come, after the output did not wait for it any longer."""
        self.clock.advance(self.clock.due(arrived) - Fraction(1, 2))
        self.placed.append(self.clock.place(seconds, arrived))
        given = self.clock.sound(seconds, arrived)
        if given is not None:
            self.sound.append(given)

    def run(self, frames: int) -> None:
        for _ in range(frames):
            self.now += 1 / self.fps
            if self.chance.random() < 0.02:
                self.happen()
            jitter = self.chance.uniform(-0.004, 0.004)
            self.place(stamp(self.now + self.sender + jitter), self.now)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_times_rise_and_stay_in_real_time_and_all_is_counted(seed: int) -> None:
    trouble = Trouble(seed)
    trouble.run(1500)
    for _ in range(3 * trouble.fps):  # in peace, so that what is held back has come
        trouble.now += 1 / trouble.fps
        trouble.place(stamp(trouble.now + trouble.sender), trouble.now)
    placed, clock = trouble.placed, trouble.clock
    assert trouble.events > 10
    assert all(before.pts < after.pts for before, after in pairwise(placed))
    assert all(before < after for before, after in pairwise(trouble.sound))
    told = [one.discontinuity for one in placed if one.discontinuity is not None]
    assert clock.counts == {kind: told.count(kind) for kind in clock.counts}
    assert len(told) == sum(clock.counts.values())
    for before, after in pairwise(placed):
        step = (after.pts - before.pts) * clock.time_base
        assert after.breaks or step <= Fraction(21, 8) / trouble.fps
    shown = float(placed[-1].pts * clock.time_base)
    assert shown == pytest.approx(trouble.now - 1000, abs=1.2)
    assert -0.7 < float(clock.due(trouble.now)) - shown < 0.1
    assert not placed[-1].late
