"""The governor: from the time that frames really take to the level that the machine can keep up."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .levels import Level

_KEPT_CHANGES = 100


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the level."""

    at: float
    """Monotonic seconds."""
    name: str
    """Of the new level."""
    reason: str
    """For people."""


class Governor:
    """Chooses the level of a live stream. It knows no clock: times are told.

    Args:
        levels: From `parse_levels`; the first is in force.
        latency_seconds: The stream's budget.
    """

    def __init__(self, levels: Sequence[Level], *, latency_seconds: float) -> None:
        self._levels = tuple(levels)
        self._latency = latency_seconds
        self._index = 0
        self.changes = 0
        """How often the level has changed."""
        self.history: deque[Change] = deque(maxlen=_KEPT_CHANGES)
        """The latest changes, the oldest first."""

    @property
    def level(self) -> Level:
        """The one in force."""
        return self._levels[self._index]

    @property
    def index(self) -> int:
        """Of the level in force: 0 where nothing is given up."""
        return self._index

    def expect(self, costs: Mapping[str, float], *, now: float, interval_seconds: float) -> Level:
        """Take what `LiveCompute.warm_up` has measured, and choose the level to begin with."""
        return self.level

    def computed(
        self, now: float, *, busy_seconds: float, interval_seconds: float, waiting_seconds: float
    ) -> Level | None:
        """Take note of a frame that was worked on; to be called after each of them.

        Args:
            now: Monotonic seconds.
            busy_seconds: How long the work on it took, without waiting for anybody. Frames that
                were skipped (`LiveCompute.skips`) are not told.
            interval_seconds: From one input frame to the next, by the nominal rate, also where
                every second one is skipped.
            waiting_seconds: Age of the oldest frame that waits for work; 0 where none does.

        Returns:
            The level to work at from now on; None: the same as before.
        """
        return None

    def dropped(self, now: float) -> None:
        """Take note of a frame that was lost because it had waited for too long."""
