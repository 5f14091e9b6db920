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
_MAX_UNDERWAY = 4096
"""Frames that were encoded, and of which nobody has said that they are written."""


class Delays:
    """Takes the delay of each frame, gives quantiles. Any thread may call it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_MAX_KEPT)
        self._steps = [0] * _NUM_STEPS
        self._count = 0
        self._underway: deque[tuple[int, float]] = deque(maxlen=_MAX_UNDERWAY)
        self._max_seconds = 0.0
        self._lock = Lock()

    def given(self, index: int, arrived: float) -> None:
        """Note that a frame is on its way.

        Args:
            index: of its slot; rises from call to call.
            arrived: monotonic seconds when its packet came.
        """
        with self._lock:
            self._underway.append((index, arrived))

    def written(self, index: int, at: float) -> None:
        """Note that a slot was written; those before it that were not are lost.

        Args:
            index: of the slot, in which there need not be a new frame.
            at: monotonic seconds.
        """
        with self._lock:
            while self._underway and self._underway[0][0] <= index:
                given, arrived = self._underway.popleft()
                if given == index:
                    self._take(max(0.0, at - arrived), at)

    def _take(self, delay: float, at: float) -> None:
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
