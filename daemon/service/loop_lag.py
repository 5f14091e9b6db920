"""How late the event loop is: a timer that looks at the clock when its turn comes.

Lateness is what every coroutine waits beyond its time: a blocking call, a long computation, a
library that holds the GIL. Its 99.9th percentile must stay under 50 ms.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

_PERIOD_SECONDS = 0.02
_WINDOW = 30_000
"""Samples that percentiles are taken of: ten minutes."""
_RECENT = 250


@dataclass(frozen=True, slots=True)
class Lateness:
    """What was seen in the last ten minutes, in seconds."""

    samples: int
    median: float
    p999: float
    """The 99.9th percentile."""
    maximum: float
    """Since the start, not only in the window."""


class LoopLag:
    """Measures the lateness of the loop that runs it."""

    def __init__(self, observe: Callable[[float], None] | None = None) -> None:
        self._observe = observe
        self._seen: deque[float] = deque(maxlen=_WINDOW)
        self._maximum = 0.0
        self._last_beat = time.monotonic()

    async def run(self) -> None:
        """Measure until cancelled."""
        self._last_beat = time.monotonic()
        while True:
            due = time.monotonic() + _PERIOD_SECONDS
            await asyncio.sleep(_PERIOD_SECONDS)
            self._last_beat = time.monotonic()
            self._record(max(0.0, self._last_beat - due))

    @property
    def recent_seconds(self) -> float:
        """The worst of the last five seconds."""
        return max(islice(reversed(self._seen), _RECENT), default=0.0)

    @property
    def silent_seconds(self) -> float:
        """Since the timer last had its turn: large where the loop, or this task, stands still."""
        return time.monotonic() - self._last_beat

    def statistics(self) -> Lateness:
        """Sum up the window; takes some milliseconds, so not for every frame."""
        ordered = sorted(self._seen)
        if not ordered:
            return Lateness(0, 0.0, 0.0, 0.0)
        return Lateness(
            len(ordered), _quantile(ordered, 0.5), _quantile(ordered, 0.999), self._maximum
        )

    def _record(self, lateness: float) -> None:
        self._seen.append(lateness)
        self._maximum = max(self._maximum, lateness)
        if self._observe is not None:
            self._observe(lateness)


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
