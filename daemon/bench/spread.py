"""What many readings of one thing come to: the median, and how far they spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel


class Spread(BaseModel, frozen=True):
    """A median with its quartiles, in the unit of the readings."""

    median: float
    low: float
    """First quartile: a quarter of the readings is below."""
    high: float
    """Third quartile."""
    least: float
    most: float
    count: int


def spread_of(readings: Sequence[float], factor: float = 1.0) -> Spread:
    """Sum up readings, each times a factor that changes its unit.

    Quartiles lie between the two nearest readings, in proportion (Hyndman and Fan 1996, type 7).

    Raises:
        ValueError: if there are none.
    """
    if not readings:
        raise ValueError("there must be at least one reading")
    ordered = sorted(reading * factor for reading in readings)
    low, median, high = (_quantile(ordered, share) for share in (0.25, 0.5, 0.75))
    return Spread(
        median=median,
        low=low,
        high=high,
        least=ordered[0],
        most=ordered[-1],
        count=len(ordered),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
