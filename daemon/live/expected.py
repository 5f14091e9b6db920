"""Frames that have come and are no pictures yet, and how long the output waits for them."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from threading import Lock

_MAX_FRAMES = 1024
"""There are never as many: of so many the oldest are forgotten."""


class Expected:
    """A value for two threads: one tells what has come, the other what has become of it.

    A frame that is not a picture within the deadline after its arrival is given up: the output goes
    on without it, so that whatever is written keeps to the latency budget.
    """

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._frames: deque[tuple[Fraction, float]] = deque(maxlen=_MAX_FRAMES)
        self._lock = Lock()

    def came(self, seconds: Fraction, arrived: float) -> None:
        """Note a frame by its time on the output's time line and its moment (monotonic)."""
        with self._lock:
            self._frames.append((seconds, arrived))

    def shown(self, seconds: Fraction) -> None:
        """Note that a picture of this time is there: nobody waits for it, or those before it."""
        with self._lock:
            while self._frames and self._frames[0][0] <= seconds:
                self._frames.popleft()

    def overdue(self, now: float) -> Fraction | None:
        """Give up the frames whose deadline has passed; the time of the last of them, or None."""
        until = None
        with self._lock:
            while self._frames and self._frames[0][1] + self._deadline <= now:
                until = self._frames.popleft()[0]
        return until

    def next_seconds(self, now: float) -> float | None:
        """Give the time until the next deadline, in seconds; None where nothing is expected."""
        with self._lock:
            return self._frames[0][1] + self._deadline - now if self._frames else None
