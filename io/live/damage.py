"""When frames may be shown: from a keyframe on, until something was lost or damaged."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from statistics import median

_REGULAR_INTERVALS = 8
"""So many intervals must have been alike before a longer one counts as a loss."""

_ALIKE = Fraction(1, 5)
"""Of an interval: how far those of a regular stream stray."""

_HOLE = Fraction(3, 2)
"""Intervals: from here on a frame is missing."""


class Gate:
    """Shut from a damaged packet's frame on, until a keyframe that was sent after the damage.

    Packets are numbered in the order in which they come; frames leave the decoder later.
    """

    def __init__(self) -> None:
        self._shut_from: int | None = 0
        self._opens_at = 0
        self._lost = False

    @property
    def is_shut(self) -> bool:
        """Whether a keyframe is waited for."""
        return self._shut_from is not None

    def shut(self, number: int, *, opens_at: int) -> None:
        """Show nothing from packet `number` on, until a keyframe; not before packet `opens_at`."""
        if self._shut_from is None:
            self._lost = True
            self._shut_from = number
        self._opens_at = max(self._opens_at, opens_at)

    def passes(self, number: int, *, is_keyframe: bool) -> bool:
        """Tell whether the frame of a packet may be shown."""
        if self._shut_from is None or number < self._shut_from:
            return True
        if is_keyframe and number >= self._opens_at:
            self._shut_from = None
        return self._shut_from is None

    def take_loss(self) -> bool:
        """Tell once, with the first frame after the damage, that there was some."""
        lost = self._lost and self._shut_from is None
        self._lost = self._lost and not lost
        return lost


class Holes:
    """Finds missing packets by the timestamps, where the transport loses some without a word.

    A decoder conceals a whole frame that is missing and says nothing. Only a stream whose
    intervals are all alike tells so; one of a variable rate has holes anyway.
    """

    def __init__(self) -> None:
        self._intervals: deque[Fraction] = deque(maxlen=_REGULAR_INTERVALS)
        self._last: Fraction | None = None
        self._found = False

    def before(self, seconds: Fraction | None) -> bool:
        """Tell whether a packet is missing before the one of this time; packets in any order."""
        if seconds is None or self._last is None:
            self._last = seconds
            return False
        interval, self._last = seconds - self._last, seconds
        found = self._is_hole(interval)
        if found and self._found:  # two in a row: it is the rate that has changed
            found = False
            self._intervals.clear()
        if not found:
            self._intervals.append(interval)
        self._found = found
        return found

    def _is_hole(self, interval: Fraction) -> bool:
        if len(self._intervals) < _REGULAR_INTERVALS:
            return False
        usual = median(self._intervals)
        if usual <= 0 or any(abs(each - usual) > _ALIKE * usual for each in self._intervals):
            return False
        return interval >= _HOLE * usual
