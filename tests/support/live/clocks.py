"""A sender of frames, whose timestamps and arrivals are as a test wants them."""

from fractions import Fraction
from itertools import pairwise

from upframe.io.live.clock import LiveClock, PlacedFrame

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
        self.placed: list[PlacedFrame] = []

    def send(self, stamp: Fraction | None = None, *, after_loss: bool = False) -> PlacedFrame:
        """Send the next frame in time: with the next timestamp, or another to go on from."""
        self.now += float(self.step)
        self.stamp = self.stamp + self.step if stamp is None else stamp
        return self.place(self.stamp, after_loss=after_loss)

    def place(self, stamp: Fraction | None, *, after_loss: bool = False) -> PlacedFrame:
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
