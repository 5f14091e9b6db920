"""How long to wait before the next attempt to connect: often at first, forever, never in step.

The row of steps is go2rtc's (internal/streams/producer.go: 1 s five times, 5 s five times,
10 s ten times, then 60 s): what is back soon is found soon, what is away for days costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

STEPS = ((1.0, 5.0), (5.0, 30.0), (10.0, 130.0), (60.0, float("inf")))
"""(step, until): seconds between two attempts, up to so many seconds of waiting altogether."""

_LEAST_PART, _MOST_PART = 0.5, 0.7
_GOOD_SECONDS = 2.0
"""Of frames, that make a connection a good one. More would let an outage that follows soon after a
long one begin with its long steps."""


class SteppedBackoff:
    """Delays between attempts to connect.

    A delay is 0.5 to 0.7 of its step: chance spreads those who lost the same server, and the rest
    of the step is for connecting and the first keyframe, so that one who returns is back within
    the step. It goes from the start of one attempt to that of the next: a process that takes a
    second to start, on a busy machine, would make the step too long otherwise. A step lasts as
    long as its attempts would without chance, and not for as many attempts: else attempts that
    fail at once would be through with the short steps too early.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """Take where chance comes from.

        Args:
            chance: Gives a number from 0 up to 1.
        """
        self._chance = chance
        self._waited = 0.0
        self._step = STEPS[0][0]

    @property
    def step_seconds(self) -> float:
        """The step that the latest delay was taken from; the first one before any."""
        return self._step

    def next_seconds(self, spent_seconds: float = 0.0) -> float:
        """Tell how long to wait after a failure, in seconds.

        Args:
            spent_seconds: That an attempt took which came to nothing.
        """
        self._step = next(step for step, until in STEPS if self._waited < until)
        delay = self._delay()
        self._waited += delay
        return max(0.0, delay - spent_seconds)

    def longest_seconds(self) -> float:
        """Tell how long to wait where trying soon is of no use, in seconds; it stays so."""
        self._step, self._waited = STEPS[-1][0], STEPS[-2][1]
        return self._delay()

    def held(self, seconds: float) -> None:
        """Note for how many seconds a connection gave good frames: enough of them start anew."""
        if seconds >= _GOOD_SECONDS:
            self._waited = 0.0
            self._step = STEPS[0][0]

    def _delay(self) -> float:
        return self._step * (_LEAST_PART + (_MOST_PART - _LEAST_PART) * self._chance())


# How long to wait before the next attempt to connect: longer each time, and never in step.


class DoublingBackoff:
    """Delays that double from `first_seconds` to `cap_seconds`, of which chance takes a part.

    "Full jitter", Brooker 2015, Exponential Backoff And Jitter: uniform between 0 and the delay,
    so that a thousand clients do not return in the same moment. A connection that held for
    `stable_seconds` starts it anew; one that held for a twelfth of that halves it twice, so that
    a broker that is restarted often is found again soon, and two clients of one name, who throw
    each other out at once, are not.
    """

    def __init__(
        self,
        first_seconds: float = 1.0,
        cap_seconds: float = 60.0,
        stable_seconds: float = 60.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first = first_seconds
        self._cap = cap_seconds
        self._stable = stable_seconds
        self._chance = chance
        self._limit = first_seconds

    @property
    def limit_seconds(self) -> float:
        """The longest that the next delay can be."""
        return self._limit

    def next_seconds(self) -> float:
        """Tell how long to wait after a failure, and make the next delay longer."""
        delay = self._chance() * self._limit
        self._limit = min(2 * self._limit, self._cap)
        return delay

    def cap_seconds(self) -> float:
        """Tell how long to wait where trying soon is of no use: half of the cap and more."""
        self._limit = self._cap
        return self._cap * (1 + self._chance()) / 2

    def held(self, seconds: float) -> None:
        """Note that a connection was up for so long."""
        if seconds >= self._stable:
            self._limit = self._first
        elif not self.is_short(seconds):
            self._limit = max(self._first, self._limit / 4)

    def is_short(self, seconds: float) -> bool:
        """Tell whether a connection that held so long was hardly one."""
        return seconds < self._stable / 12
