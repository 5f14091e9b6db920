"""Interleaved runs, and what their readings come to.

Runs are interleaved as A B C, C B A, …, so that a machine that grows slower does so for all of
them. Before that, what would take too long is left out, by what one run costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

LEAST_ROUNDS = 3
"""Fewer readings have no spread worth the name."""
SAMPLE_SECONDS = 0.04
"""One reading lasts at least this long, for as many runs as that takes."""
_MOST_RUNS = 2000


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the things that are compared."""

    name: str
    run: Callable[[int], float]
    """Does its work that many times, and gives the seconds for all of them together."""
    runs: int = 1
    """In one reading."""


@dataclass(frozen=True, slots=True)
class Affordable:
    """What there is time for."""

    kept: tuple[str, ...]
    rounds: int
    too_long: tuple[str, ...]


def affordable(
    costs: Mapping[str, float], *, rounds: int, budget_seconds: float, extra_runs: int = 0
) -> Affordable:
    """Choose what fits into a budget: the costliest goes first, until the least rounds fit.

    Args:
        costs: Seconds of one reading, by name.
        rounds: Wanted; fewer where there is no time, at least `LEAST_ROUNDS` or `rounds`.
        budget_seconds: For all readings together.
        extra_runs: Readings of each besides the rounds, such as those to warm up.
    """
    kept = dict(costs)
    least = min(rounds, LEAST_ROUNDS)
    while kept and sum(kept.values()) * (least + extra_runs) > budget_seconds:
        del kept[max(kept, key=lambda name: kept[name])]
    total = sum(kept.values())
    fit = math.floor(budget_seconds / total) - extra_runs if total > 0 else rounds
    too_long = tuple(name for name in costs if name not in kept)
    return Affordable(tuple(kept), max(least, min(rounds, fit)), too_long)


def runs_for(seconds: float, sample_seconds: float = SAMPLE_SECONDS) -> int:
    """How many runs of so many seconds one reading needs to be long enough for the clock."""
    if seconds <= 0:
        return _MOST_RUNS
    return max(1, min(_MOST_RUNS, math.ceil(sample_seconds / seconds)))


def interleave(variants: list[Variant], rounds: int) -> dict[str, list[float]]:
    """Read each variant once a round; seconds of one run, by name, in order.

    Every second round goes backwards, so that none always follows the same one.
    """
    readings: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for index in range(rounds):
        for variant in variants if index % 2 == 0 else reversed(variants):
            readings[variant.name].append(variant.run(variant.runs) / variant.runs)
    return readings


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
