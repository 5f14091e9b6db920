"""The even row behind timestamps that jitter."""

from __future__ import annotations

from dataclasses import dataclass

_GAIN = 1 / 16
"""Of an error, that the next position takes: jitter of 5 ms becomes one of 1 ms or so."""

_STEERED_GAIN = 1 / 32
"""The same by arrivals, which jitter more than timestamps."""

_LEAST_LOSS_SECONDS = 0.008
_LEAST_BACKWARD_SECONDS = 0.020
_FORWARD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """From one frame to the next."""

    seconds: float
    intervals: int
    """1 where nothing is missing between them."""


class Pace:
    """Steps from frame to frame: by the interval of the stream, corrected by its timestamps.

    An alpha-beta filter: a part of every error goes into the position, and a much smaller part
    into the interval, so that neither a clock that drifts nor a nominal rate that is not the true
    one leaves a lasting error. The smaller gain, alpha^2 / 4, is that of critical damping.
    """

    def __init__(self, interval: float) -> None:
        """Take the nominal interval in seconds."""
        self._nominal = interval
        self.interval = interval
        """Seconds from frame to frame, as learned so far."""
        self._steps = 0

    def restart(self) -> None:
        """Begin a new row: of the old one only the interval holds."""
        self._steps = 0

    def is_backward(self, error: float) -> bool:
        """Tell whether a timestamp jumps back.

        Args:
            error: Seconds by which it is after what was expected.
        """
        return error < -self.interval - max(self.interval, _LEAST_BACKWARD_SECONDS)

    def is_forward(self, error: float) -> bool:
        """Tell whether a timestamp jumps forward, further than frames that were lost."""
        return error > max(_FORWARD_SECONDS, 2 * self.interval)

    def step(self, error: float) -> Step:
        """Step to a frame whose timestamp is `error` seconds after what was expected; no jump.

        A frame that is late by half an interval or more is taken for one after a loss; the first
        frames of a row count for more, so that its phase is soon known.
        """
        self._steps += 1
        gain = max(_GAIN, 1 / (self._steps + 1))
        count = 1
        if error > max(self.interval / 2, _LEAST_LOSS_SECONDS):
            count = round(1 + error / self.interval)
        rest = error - (count - 1) * self.interval
        seconds = count * self.interval + gain * rest
        least = self.interval / 2
        self._learn(gain * gain / 4 * rest / count)
        return Step(max(seconds, least), count)

    def steer(self, error: float) -> Step:
        """Step to a frame without a timestamp, which came `error` seconds after it was expected."""
        most = self.interval / 2
        seconds = self.interval + min(max(_STEERED_GAIN * error, -most), most)
        self._learn(_STEERED_GAIN * _STEERED_GAIN / 4 * error)
        return Step(seconds, 1)

    def _learn(self, change: float) -> None:
        self.interval = min(max(self.interval + change, self._nominal / 2), self._nominal * 2)
