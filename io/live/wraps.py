"""Timestamps that start again at zero because their field is full."""

from __future__ import annotations

from fractions import Fraction

PERIODS = (Fraction(2**33, 90000), Fraction(2**32, 90000))
"""Seconds after which MPEG-TS (33 bits) and RTP video (32 bits) wrap, at 90 kHz."""

_NEAR_SECONDS = 10.0


class Wraps:
    """Continues the row of a sender's timestamps where they wrap."""

    def __init__(self) -> None:
        self._added = Fraction(0)

    def unwrapped(self, seconds: Fraction) -> Fraction:
        """Give a time without the wraps so far."""
        return seconds + self._added if self._added else seconds

    def wrapped(self, error: float, tolerance: float) -> bool:
        """Tell whether a time wrapped just now, and continue the row there if so.

        Args:
            error: Seconds by which the unwrapped time is after what was expected.
            tolerance: Seconds that it may be off besides the wrap.
        """
        for period in PERIODS:
            if abs(error + float(period)) <= tolerance:
                self._added += period
                return True
        return False

    def near(self, seconds: Fraction, reference: Fraction) -> Fraction:
        """Give the time without wraps of the sender's other stream, which wraps a little apart.

        Args:
            seconds: As the sender gives it.
            reference: A time, without wraps, of the stream whose wraps are followed.
        """
        unwrapped = self.unwrapped(seconds)
        away = float(unwrapped - reference)
        for period in PERIODS:
            if abs(abs(away) - float(period)) <= _NEAR_SECONDS:
                return unwrapped - period if away > 0 else unwrapped + period
        return unwrapped
