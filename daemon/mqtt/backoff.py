"""How long to wait before the next attempt to connect: longer each time, and never in step."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
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
