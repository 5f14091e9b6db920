"""The even row behind timestamps that jitter."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from statistics import median_low

_GAIN = 1 / 16
"""Of an error, that the next position takes: jitter of 5 ms becomes one of 1 ms or so."""

_STEERED_GAIN = 1 / 32
"""The same by arrivals, which jitter more than timestamps."""

_LEAST_LOSS_SECONDS = 0.008
_BACKWARD_SECONDS = 0.020
_FALLEN_BACK_SECONDS = 0.5
_FORWARD_SECONDS = 1.0

_RECENT_FRAMES, _ENOUGH_FRAMES = 16, 8
_OTHER_PACE, _LIKE_PACE = 1 / 8, 1 / 4


@dataclass(frozen=True, slots=True)
class Step:
    """From one frame to the next."""

    seconds: float
    intervals: int
    """1 where nothing is missing between them."""


class Pace:
    """Steps from frame to frame: by the interval of the stream, corrected by its timestamps.

    An alpha-beta filter: a part of every error goes into the position, and a much smaller part
    into the interval, so that neither a clock that drifts nor a nominal rate that is a little off
    leaves a lasting error. The smaller gain, alpha^2 / 4, is that of critical damping. A stream
    that has quite another pace than its nominal one, as cameras have in the dark, is seen at once.
    """

    def __init__(self, interval: float) -> None:
        """Take the nominal interval in seconds."""
        self._nominal = interval
        self.interval = interval
        """Seconds from frame to frame, as learned so far."""
        self._behind = 0.0  # of the latest timestamp, its position
        self._recent: deque[float] = deque(maxlen=_RECENT_FRAMES)  # from timestamp to timestamp
        self._steps = 0

    def restart(self) -> None:
        """Begin a new row: of the old one only the pace holds."""
        self._steps = 0
        self._behind = 0.0

    def is_backward(self, error: float) -> bool:
        """Tell whether a timestamp jumps back, or stands still for good.

        Args:
            error: Seconds by which it is after what was expected.
        """
        too_far = max(_FALLEN_BACK_SECONDS, 4 * self.interval)
        return self._difference(error) < -_BACKWARD_SECONDS or error < -too_far

    def is_forward(self, error: float) -> bool:
        """Tell whether a timestamp jumps forward, further than frames that were lost."""
        return error > max(_FORWARD_SECONDS, 2 * self.interval)

    def step(self, error: float) -> Step:
        """Step to a frame whose timestamp is `error` seconds after what was expected; no jump.

        A frame that is late by half an interval or more is taken for one after a loss. The first
        frames of a row count for more, so that its phase is soon known.
        """
        self._recent.append(self._difference(error))
        expected, interval = self.interval + error, self.interval
        self._steps += 1
        gain = max(_GAIN, 1 / (self._steps + 1))
        count = 1
        if error > max(interval / 2, _LEAST_LOSS_SECONDS):
            count = round(expected / interval)
        rest = expected - count * interval
        seconds = max(count * interval + gain * rest, interval / 2)
        self._behind = expected - seconds
        self._learn(gain * gain / 4 * rest / count)
        if self._steps % _ENOUGH_FRAMES == 0:
            self._look_at_pace()
        return Step(seconds, count)

    def steer(self, error: float) -> Step:
        """Step to a frame without a timestamp, which came `error` seconds after it was expected."""
        most = self.interval / 2
        seconds = self.interval + min(max(_STEERED_GAIN * error, -most), most)
        self._learn(_STEERED_GAIN * _STEERED_GAIN / 4 * error)
        return Step(seconds, 1)

    def _difference(self, error: float) -> float:
        """Give the seconds from the latest timestamp to this one."""
        return self.interval + error - self._behind

    def _learn(self, change: float) -> None:
        self.interval = min(max(self.interval + change, self._nominal / 2), self._nominal * 2)

    def _look_at_pace(self) -> None:
        """Take another interval where most of the latest timestamps agree on it."""
        usual = median_low(self._recent)
        if abs(usual - self.interval) <= _OTHER_PACE * self.interval:
            return
        alike = sum(abs(one - usual) <= _LIKE_PACE * usual for one in self._recent)
        if usual > 0 and alike >= 0.7 * len(self._recent):
            self._nominal = self.interval = usual
            self._steps = 0


# Whole ticks for the times of an output, and differences of times in floats.

_TICKS = 90_000
_MOST_TICKS = 2**27
"""Pictures between two frames need finer ones still, and FFmpeg holds them in 31 bits."""


def ticks_per_second(rate: Fraction) -> int:
    """Give ticks of which slots are whole numbers, and 90 kHz too unless that needs too many."""
    slots = rate.numerator
    exact = math.lcm(_TICKS, slots)
    return exact if exact <= _MOST_TICKS else slots * max(1, _MOST_TICKS // slots)


def seconds_between(earlier: Fraction, later: Fraction) -> float:
    """Subtract in whole numbers: several times as fast as Fractions, and as exact as a float."""
    top = later.numerator * earlier.denominator - earlier.numerator * later.denominator
    return top / (later.denominator * earlier.denominator)
