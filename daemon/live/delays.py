"""How late frames are: from a packet's arrival to the moment its frame is written.

The last minute is kept frame by frame, for the status; the whole run as a histogram of fixed size,
for the report.
"""

from __future__ import annotations

from collections import deque
from threading import Lock

WINDOW_SECONDS = 60.0
_STEP_SECONDS = 0.005
_NUM_STEPS = 20_001
"""Of the histogram: 100 s, and the last for all that is more."""
_MAX_KEPT = 60 * 240
"""Frames in the window, at most: a minute at 240 a second."""


class Delays:
    """Takes the delay of each frame, gives quantiles. Any thread may call it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_MAX_KEPT)
        self._steps = [0] * _NUM_STEPS
        self._count = 0
        self._max_seconds = 0.0
        self._lock = Lock()

    def written(self, arrived: float, at: float) -> None:
        """Take one frame.

        Args:
            arrived: monotonic seconds when its packet came.
            at: monotonic seconds when it was written, never before that.
        """
        delay = max(0.0, at - arrived)
        with self._lock:
            self._recent.append((at, delay))
            self._steps[min(_NUM_STEPS - 1, int(delay / _STEP_SECONDS))] += 1
            self._count += 1
            self._max_seconds = max(self._max_seconds, delay)

    def recent(self, now: float) -> dict[str, float]:
        """Give p50, p99 and max of the last minute, in seconds; empty where nothing was written."""
        with self._lock:
            while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
                self._recent.popleft()
            delays = sorted(delay for _, delay in self._recent)
        if not delays:
            return {}
        return {
            "p50": round(delays[_rank(0.50, len(delays))], 4),
            "p99": round(delays[_rank(0.99, len(delays))], 4),
            "max": round(delays[-1], 4),
        }

    def overall(self) -> dict[str, float]:
        """Give p50, p99 and max of the whole run, in seconds; quantiles rounded up to 5 ms."""
        with self._lock:
            if not self._count:
                return {}
            return {
                "p50": self._quantile(0.50),
                "p99": self._quantile(0.99),
                "max": round(self._max_seconds, 4),
            }

    def _quantile(self, share: float) -> float:
        left = _rank(share, self._count)
        longest = round(self._max_seconds, 4)
        for step, count in enumerate(self._steps[:-1]):
            if left < count:
                return min(round((step + 1) * _STEP_SECONDS, 4), longest)
            left -= count
        return longest


def _rank(share: float, count: int) -> int:
    """Place of a quantile among `count` sorted values: the nearest rank, counted from 0."""
    return min(count - 1, max(0, -int(-share * count // 1) - 1))
