"""Sound goes with the picture's offset, through jumps, wraps and connections."""

from fractions import Fraction
from itertools import pairwise

import pytest

from upframe.io.live.clock import LiveClock

RATE = Fraction(25)
STEP = Fraction(1, 25)
PACKET = Fraction(1024, 48_000)
WRAP = Fraction(2**33, 90_000)


class Both:
    """A sender of pictures and sound on one clock, whose jumps reach one before the other."""

    def __init__(self, *, sound_ahead: float = 0.0) -> None:
        self.clock = LiveClock(RATE)
        self.clock.connected(RATE, now=500)
        self.ahead = sound_ahead
        """How much earlier than the picture of its time a packet comes, in seconds."""
        self.jumps: list[tuple[float, Fraction]] = []
        self.period: Fraction | None = None
        self.began = Fraction(1000)
        self.given: list[tuple[Fraction, Fraction | None]] = []
        """True time and output time of each packet of sound."""
        self.pictures: list[tuple[Fraction, Fraction]] = []

    def stamp(self, true: Fraction) -> Fraction:
        jumped = sum((by for at, by in self.jumps if true >= at), Fraction(0))
        stamp = self.began + true + jumped
        return stamp if self.period is None else stamp % self.period

    def run(self, seconds: float, *, pictures_stamped: bool = True) -> None:
        """Send from time 0 up to a time, each as it comes."""
        coming = [(float(n * STEP), n * STEP, "picture") for n in range(int(seconds * 25))]
        coming += [
            (float(n * PACKET) - self.ahead, n * PACKET, "sound")
            for n in range(int(seconds / PACKET))
        ]
        for at, true, kind in sorted(coming):
            if kind == "picture":
                stamp = self.stamp(true) if pictures_stamped else None
                placed = self.clock.place(stamp, 500 + at)
                self.pictures.append((true, placed.pts * self.clock.time_base))
            else:
                self.given.append((true, self.clock.sound(self.stamp(true), 500 + at)))

    def kept(self) -> list[tuple[Fraction, Fraction]]:
        """The packets that have a place."""
        return [(true, given) for true, given in self.given if given is not None]

    def lost_seconds(self) -> float:
        """Sound without a place, from the first that has one on."""
        first = next(index for index, (_, given) in enumerate(self.given) if given is not None)
        return float(sum(given is None for _, given in self.given[first:]) * PACKET)

    def check(self, within: Fraction = STEP) -> None:
        """Sound rises, and is where the picture of its time is."""
        kept = self.kept()
        assert all(before[1] < after[1] for before, after in pairwise(kept))
        pictures = dict(self.pictures)
        for true, given in kept:
            nearest = round(true / STEP) * STEP
            if nearest in pictures:
                assert abs(given - true - (pictures[nearest] - nearest)) <= within


@pytest.mark.parametrize("ahead", [0.0, 0.3, -0.3])
def test_sound_has_the_offset_of_the_pictures(ahead: float) -> None:
    both = Both(sound_ahead=ahead)
    both.run(10)
    both.check(within=Fraction(0))
    assert both.lost_seconds() == 0
    assert len(both.kept()) * PACKET > 9.6


def test_there_is_no_sound_before_the_first_picture() -> None:
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    assert clock.sound(Fraction(5), 0.0) is None
    clock.place(Fraction(5), 0.1)
    assert clock.sound(Fraction(5), 0.1) == 0
    clock.connected(RATE, now=10)
    assert clock.sound(Fraction(5), 10.0) is None
    clock.place(Fraction(0), 10.1)
    assert clock.sound(Fraction(0), 10.1) == 10


def test_sound_of_before_the_first_picture_is_dropped_though_it_comes_after_it() -> None:
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    clock.place(Fraction(5), 0.0)
    assert clock.sound(Fraction("4.99"), 0.0) is None
    assert clock.sound(Fraction(5), 0.0) == 0


def test_sound_out_of_order_is_dropped() -> None:
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    clock.place(Fraction(5), 0.0)
    given = [clock.sound(Fraction(5) + n * PACKET, 0.1) for n in (0, 1, 1, 0, 2)]
    assert given == [0, PACKET, None, None, 2 * PACKET]


def test_the_offset_of_an_earlier_connection_is_forgotten() -> None:
    """It would find a place for what has none."""
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    clock.place(Fraction(5), 0.0)
    assert clock.sound(Fraction("14.95"), 9.95) == Fraction("9.95")
    clock.connected(RATE, now=10)
    clock.place(Fraction("15.1"), 10.0)
    assert clock.sound(Fraction("15.04"), 10.0) is None
    assert clock.sound(Fraction("15.1"), 10.0) == 10


def test_the_offset_before_a_jump_is_forgotten_once_the_sound_has_jumped_too() -> None:
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    for index in range(50):
        clock.place(index * STEP + (Fraction("1.2") if index >= 25 else 0), index / 25)
    assert clock.sound(Fraction("0.5"), 1.5) == Fraction("0.5")
    assert clock.sound(Fraction("2.7"), 2.0) == Fraction("1.5")
    assert clock.sound(Fraction("2.7"), 2.0) is None


def test_sound_that_comes_with_its_pictures_all_at_once_is_kept() -> None:
    """As in segments of HLS: it is far ahead of real time, but not of its pictures."""
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    for index in range(150):
        clock.place(index * STEP, 0.0)
        assert clock.sound(index * STEP, 0.0) == index * STEP


def test_sound_without_a_timestamp_is_dropped() -> None:
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    clock.place(Fraction(5), 0.0)
    assert clock.sound(None, 0.0) is None


@pytest.mark.parametrize("jump", [10, -10, 3, -3, 1000, -1000])
@pytest.mark.parametrize("ahead", [0.0, 0.3, -0.3])
def test_both_jump_and_stay_together(jump: int, ahead: float) -> None:
    """Whichever jumps first; what can be lost is what came on the wrong side, and no more."""
    both = Both(sound_ahead=ahead)
    both.jumps = [(5.0, Fraction(jump))]
    both.run(10)
    both.check()
    assert both.lost_seconds() <= max(ahead, 0) + 0.05
    assert sum(both.clock.counts.values()) == 1


@pytest.mark.parametrize("ahead", [0.0, 0.3, -0.3])
def test_both_wrap_and_stay_together(ahead: float) -> None:
    both = Both(sound_ahead=ahead)
    both.began, both.period = WRAP - 20, WRAP
    both.run(25)
    both.check(within=Fraction(0))
    assert both.lost_seconds() == 0
    assert both.clock.counts["wrap"] == 1


def test_sound_goes_on_while_there_are_no_pictures() -> None:
    clock = LiveClock(RATE)
    clock.connected(RATE, now=0)
    for index in range(25):
        clock.place(index * STEP, float(index * STEP))
    number = int(10 / PACKET)
    given = [clock.sound(n * PACKET, float(n * PACKET)) for n in range(50, number)]
    assert given == [n * PACKET for n in range(50, number)]


def test_many_jumps_leave_the_sound_with_the_pictures() -> None:
    both = Both(sound_ahead=0.1)
    both.jumps = [(5.0 + 5 * n, Fraction(by)) for n, by in enumerate((10, -10, 2, -7, 100, -3, 5))]
    both.run(50)
    both.check()
    assert both.lost_seconds() < 7 * 0.2


def test_with_pictures_that_have_no_timestamps_sound_goes_by_its_arrival() -> None:
    both = Both()
    both.run(20, pictures_stamped=False)
    both.check()
    assert both.lost_seconds() == 0
