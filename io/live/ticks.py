"""Whole ticks for the times of an output, and differences of times in floats."""

from __future__ import annotations

import math
from fractions import Fraction

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
