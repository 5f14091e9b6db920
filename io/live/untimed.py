"""The time of a connection's first frame, which RTP does not tell before its second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from .values import Arrival


class FirstTime:
    """Holds a first frame without a time until the next one, which tells it. Once."""

    def __init__(self) -> None:
        self._held: tuple[Arrival, Fraction] | None = None
        self._done = False

    def __call__(self, arrival: Arrival, duration_seconds: Fraction) -> Iterator[Arrival]:
        """Take a frame and how long it lasts (0 where unknown), give those that are ready."""
        if self._done:
            yield arrival
        elif self._held is None and arrival.seconds is None and duration_seconds:
            self._held = arrival, duration_seconds
        else:
            self._done = True
            if self._held is not None:
                first, duration = self._held
                told = None if arrival.seconds is None else arrival.seconds - duration
                yield replace(first, seconds=told)
            yield arrival
