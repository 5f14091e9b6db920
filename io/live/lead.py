"""Which time on the output's time line belongs to a moment, as the arrivals of frames tell it."""

from __future__ import annotations

from collections import deque
from operator import itemgetter

_WINDOW_SECONDS = 20
"""Long enough that a source which comes in bursts, like HLS, shows its latest frames in it."""

_SLIP = 1e-3
"""Seconds a second, by which a sender's clock may be slower than ours; crystals keep to 2e-4."""

_MOST_BEHIND_SECONDS = 2.0


class Lead:
    """How far output time is ahead of the clock of arrivals, in seconds.

    It follows the frames that take longest on their way, for whoever asks what is due wants to
    know what is overdue: the least of (output time - arrival) of the last 20 s of arrivals. So a
    sender's clock is followed wherever it drifts. A sender that falls behind real time faster than
    any clock drifts is followed for 2 s only, for the output goes by real time.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._base = 0.0
        self._least: deque[tuple[int, float]] = deque()  # (second of arrival, least lead in it)
        self._arrived = 0.0

    @property
    def recovered_seconds(self) -> float:
        """The same without what frames were late by lately, beyond the drift of clocks."""
        return self._base

    def begin(self, lead: float, arrived: float) -> None:
        """Begin with the first of all frames, or with a moment before it."""
        self._base = lead
        self.jump(lead, arrived)

    def jump(self, lead: float, arrived: float) -> None:
        """Go on with a frame that was given a new place: how late others were tells no more."""
        self.seconds = lead
        self._base = max(self._base, lead)
        self._arrived = arrived
        self._least = deque([(int(arrived), lead)])

    def note(self, lead: float, arrived: float) -> None:
        """Take in a frame that came at `arrived` and whose output time is `lead` ahead of that."""
        second = int(arrived)
        if self._least and second <= self._least[-1][0]:
            self._least[-1] = (self._least[-1][0], min(self._least[-1][1], lead))
        else:
            self._least.append((second, lead))
            while self._least[0][0] < second - _WINDOW_SECONDS:
                self._least.popleft()
        least = min(self._least, key=itemgetter(1))[1]
        # a silence says nothing of the sender's clock: no more than a second of it counts
        passed = min(max(arrived - self._arrived, 0.0), 1.0)
        self._base = max(least, self._base - _SLIP * passed)
        self._arrived = arrived
        self.seconds = max(least, self._base - _MOST_BEHIND_SECONDS)
