"""How long to wait before the next attempt: short at first, ever longer, never in step with others.

The row of steps is go2rtc's (internal/streams/producer.go: 1 s five times, 5 s five times,
10 s ten times, then 60 s): what returns soon is found soon, what is away for days costs nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

Steps = Sequence[tuple[float, float]]
"""(step, until): seconds between two attempts, up to so many seconds of waiting altogether."""

STEPS: Steps = ((1.0, 5.0), (5.0, 30.0), (10.0, 130.0), (60.0, math.inf))
STORE_STEPS: Steps = ((0.5, 5.0), (5.0, 30.0), (30.0, math.inf))
"""For writes to our own store, which must not be lost: a full disk may have space any time."""


class Backoff:
    """Delays between attempts.

    A delay is a random part of its step, which spreads the clients of a server that was lost. With
    the default parts, the rest of the step is for connecting and the first keyframe, so that a
    camera that returns is back within the step. A delay goes from the start of one attempt to the
    start of the next: a process may take a second to start on a busy machine. A step lasts for a
    time and not for a number of attempts, or attempts that fail at once would be through with the
    short steps too early.

    Args:
        steps: see there.
        parts: the least and the largest part of a step. From 0 to 1 is "full jitter" (Brooker 2015,
            Exponential Backoff And Jitter): a thousand clients do not return in the same moment.
        good_seconds: for which a connection must hold to begin with the first step again. More
            would let an outage that follows soon after a long one begin with its long steps.
        fair_seconds: after which one at least shortens the delays. A server that is restarted
            often is found again soon, but two clients of one name, which throw each other out at
            once, slow down.
        chance: returns a number from 0 up to 1.
    """

    def __init__(
        self,
        steps: Steps = STEPS,
        *,
        parts: tuple[float, float] = (0.5, 0.7),
        good_seconds: float = 2.0,
        fair_seconds: float = math.inf,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._steps = steps
        self._parts = parts
        self._good_seconds = good_seconds
        self._fair_seconds = fair_seconds
        self._chance = chance
        self._waited = 0.0

    @property
    def step_seconds(self) -> float:
        """The step of the next delay."""
        return next(step for step, until in self._steps if self._waited < until)

    def next_seconds(self, spent_seconds: float = 0.0) -> float:
        """Return how long to wait after a failure, and let that time count.

        Args:
            spent_seconds: on the attempt that failed.
        """
        delay = self._part_of(self.step_seconds, *self._parts)
        self._waited += delay
        return max(0.0, delay - spent_seconds)

    def longest_seconds(self) -> float:
        """Return how long to wait if trying soon is of no use; the longest step stays from then on.

        That is half of the step or more.
        """
        self._waited = self._steps[-2][1]
        least, most = self._parts
        return self._part_of(self._steps[-1][0], max(0.5, least), most)

    def held(self, seconds: float) -> None:
        """Take into account for how many seconds a connection held, or gave good frames."""
        if seconds >= self._good_seconds:
            self.reset()
        elif seconds >= self._fair_seconds:
            self._waited /= 4

    def reset(self) -> None:
        """Begin with the first step again."""
        self._waited = 0.0

    def _part_of(self, step: float, least: float, most: float) -> float:
        return step * (least + (most - least) * self._chance())
