"""What two neighbouring frames are to each other: motion, a cut, a jump in time, the same."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch

from ..frame import Frame

_GAP_SECONDS = Fraction(1, 4)
_GAP_INTERVALS = 4
"""A step in time longer than both is a jump, not motion."""
_GAP_SECONDS_AT_UNKNOWN_RATE = Fraction(1)

Reason = Literal["repeated_at_cuts", "repeated_at_gaps", "repeated_at_duplicates"]
"""Why a gap is filled without the network; also the name of the counter."""


def longest_step(average_rate: Fraction | None) -> Fraction:
    """Give the longest step in time, in seconds, that may still be motion."""
    if not average_rate:
        return _GAP_SECONDS_AT_UNKNOWN_RATE
    return max(_GAP_SECONDS, _GAP_INTERVALS / average_rate)


def reason_to_repeat(left: Frame, right: Frame, longest: Fraction) -> Reason | None:
    """Tell why nothing may, or need, be computed between two frames; None if it shall be."""
    if right.cut:
        return "repeated_at_cuts"
    step = right.pts - left.pts
    if step <= 0 or step * right.time_base > longest:
        return "repeated_at_gaps"
    return "repeated_at_duplicates" if right.duplicate or _same_pixels(left, right) else None


def ticks_between(left: Frame, right: Frame) -> int:
    """Give the ticks from one in-between to the next, in a time base 2^exp times finer.

    That is (p1 - p0)/2^exp, exact. Where time stands still or jumps back, the repeats share the
    earlier frame's own duration.
    """
    step = right.pts - left.pts
    return step if step > 0 else max(left.duration, 1)


def check_alike(left: Frame, right: Frame) -> None:
    """Make sure that two frames belong to the same stream.

    Raises:
        ValueError: if size, time base, or having alpha differ.
    """
    for name in ("width", "height", "time_base"):
        expected, found = getattr(left, name), getattr(right, name)
        if found != expected:
            raise ValueError(f"{name} must be {expected} as in the frame before, got {found}")
    if (left.alpha is None) != (right.alpha is None):
        raise ValueError("either every frame must have alpha or none, got one with and one without")


def _same_pixels(left: Frame, right: Frame) -> bool:
    if not torch.equal(left.pixels, right.pixels):
        return False
    if left.alpha is None or right.alpha is None:
        return True
    return torch.equal(left.alpha, right.alpha)
