"""Times of several contestants, taken in turns, so that what disturbs the machine disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Some times, in the order in which they were taken, and how they lie."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all samples."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the samples lie below the first, a quarter above the second."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    def as_json(self, unit: float, digits: int = 1) -> dict[str, object]:
        """Write it down, every figure times `unit`."""
        return {
            "median": round(self.median * unit, digits),
            "quartiles": [round(value * unit, digits) for value in self.quartiles],
            "lowest": round(min(self.samples) * unit, digits),
            "highest": round(max(self.samples) * unit, digits),
            "samples": [round(sample * unit, digits) for sample in self.samples],
        }


def interleave(
    turns: Mapping[str, Callable[[], float]], rounds: int, pause_seconds: float = 0.0
) -> dict[str, Spread]:
    """Let everyone have one turn a round: A B C, then C B A, and so on.

    Args:
        turns: each gives its own time.
        rounds: how many times.
        pause_seconds: before every turn: threads of some runtimes spin a while after their work.
    """
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for index in range(rounds):
        for name in list(turns) if index % 2 == 0 else reversed(list(turns)):
            time.sleep(pause_seconds)
            samples[name].append(turns[name]())
    return {name: Spread(tuple(values)) for name, values in samples.items()}


def ratios(over: Spread, of: Spread) -> Spread:
    """How many times `of` is as fast as `over`, round by round."""
    return Spread(tuple(a / b for a, b in zip(over.samples, of.samples, strict=True)))
