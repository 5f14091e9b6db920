"""When a connection that gives no frames is stalled, and when it is lost."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Literal

Verdict = Literal["running", "stalled", "lost"]

_STALLED_SECONDS, _STALLED_INTERVALS = 1.0, 8
_LOST_SECONDS, _LOST_GOPS, _LOST_INTERVALS = 10.0, 3, 20
_GOPS_KEPT = 4


class StallRule:
    """Judges silence by the stream's own rate and keyframe interval.

    Silence means no decoded frame: bytes may flow all the while. After damage there is nothing
    to show before the next keyframe, so that a silence of one group of pictures is in order; a
    fixed limit would connect to a slow source over and over.
    """

    def __init__(
        self, rate: Fraction, gop_seconds: Fraction | None, given_seconds: float | None = None
    ) -> None:
        """Take what is known of the stream.

        Args:
            rate: Nominal frames per second.
            gop_seconds: From keyframe to keyframe; None while it is not known.
            given_seconds: What the user says is too long, instead of the stream's own limit.

        Raises:
            ValueError: for a rate that is not positive.
        """
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self._interval = float(1 / rate)
        self._given = given_seconds
        self._gops: deque[float] = deque(maxlen=_GOPS_KEPT)
        if gop_seconds is not None:
            self.observed(gop_seconds)

    @property
    def stalled_seconds(self) -> float:
        """Silence from which on it is stalled."""
        return min(max(_STALLED_SECONDS, _STALLED_INTERVALS * self._interval), self.lost_seconds)

    @property
    def lost_seconds(self) -> float:
        """Silence from which on the connection is given up."""
        if self._given is not None:
            return self._given
        gop = max(self._gops, default=0.0)
        return max(_LOST_SECONDS, _LOST_GOPS * gop, _LOST_INTERVALS * self._interval)

    def judge(self, silent_seconds: float) -> Verdict:
        """Judge by the seconds since the last decoded frame, or since it was connected."""
        if silent_seconds >= self.lost_seconds:
            return "lost"
        return "stalled" if silent_seconds >= self.stalled_seconds else "running"

    def observed(self, gop_seconds: Fraction | float) -> None:
        """Note the seconds between two keyframes; the longest of the last few counts."""
        self._gops.append(float(gop_seconds))
