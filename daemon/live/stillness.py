"""Whether the work on a live stream stands still, while its process speaks on.

A driver may never come back from a call. Then statuses are told as ever, frames come in, and the
output repeats what it had. A pure value: it is told statuses and times, and looks at no clock.
"""

from __future__ import annotations

from .status import LiveStatus


class Stillness:
    """Measures for how long frames have come in without a new picture going out."""

    def __init__(self) -> None:
        self._pictures = 0
        self._since: float | None = None
        self._arrived = 0

    @property
    def began(self) -> bool:
        """Whether a first picture has gone out."""
        return self._pictures > 0

    def seconds(self, status: LiveStatus, now: float) -> float:
        """Note a status; give how long it has stood still, 0 where there is nothing to do."""
        counts = status.counts
        arrived = counts.get("frames_decoded", 0)
        pictures = counts.get("frames_encoded", 0) - counts.get("frames_repeated", 0)
        pictures += counts.get("frames_left_out", 0)  # counted as repeats, and never encoded
        idle = status.state != "running" or arrived == self._arrived
        if self._since is None or pictures != self._pictures or idle:
            self._since, self._pictures = now, pictures
        self._arrived = arrived
        return now - self._since
