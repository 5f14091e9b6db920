"""What comes after the output went on without it."""

from __future__ import annotations

import math
from fractions import Fraction

_LATE_SLOTS = Fraction(3, 4)
"""Before the next slot, from which on a frame may find none any more."""

_LONG_SECONDS = 1.0
_CATCHING_UP = 1.25


class Behind:
    """Knows how far the output was filled, and tells a burst from a stream that stays behind."""

    def __init__(self, out_rate: Fraction, ticks: int) -> None:
        """Take the slots of the output per second, and the ticks."""
        self._rate = out_rate
        self._ticks = ticks
        self._filled = Fraction(0)  # seconds
        self._late_until = -1  # ticks
        self._since: tuple[float, int] | None = None  # arrival, ticks

    @property
    def next_slot(self) -> int:
        """The first slot that was not filled."""
        return math.ceil(self._filled * self._rate)

    def advance(self, to: Fraction) -> None:
        """Note that the output was filled up to a time in seconds."""
        if to > self._filled:
            self._filled = to
            self._late_until = int((to - _LATE_SLOTS / self._rate) * self._ticks)

    def restart(self) -> None:
        """Forget who was late: the next frame has a new place."""
        self._since = None

    def is_late(self, position: int) -> bool:
        """Tell whether the output went past a position, in ticks."""
        return position <= self._late_until

    def stays(self, position: int, arrived: float) -> bool:
        """Tell whether the output went on without this frame and those before for a while now.

        Not while they come faster than in real time: that is a burst after a stall, which catches
        up by itself.
        """
        if not self.is_late(position):
            self._since = None
            return False
        if self._since is None:
            self._since = (arrived, position)
        passed = arrived - self._since[0]
        if passed < _LONG_SECONDS:
            return False
        came = (position - self._since[1]) / self._ticks
        self._since = (arrived, position)
        return came < _CATCHING_UP * passed
