"""How much of the processor others had while something was measured."""

from __future__ import annotations

import os
from pathlib import Path

MOST_OTHERS = 0.05
"""Share of other processes above which times are not reliable."""
_IDLE_COLUMNS = (3, 4)
"""Of the first line of /proc/stat, after its name: idle, and idle while waiting for a disk."""


class Neighbours:
    """Counts from when it is made. Children count as own once they have ended."""

    def __init__(self) -> None:
        self._busy_at_start = busy_seconds(Path("/proc/stat").read_text())
        self._own_at_start = _own_seconds()

    def share(self) -> float:
        """Share of the processor's time that other processes had, of what could be had; 0 to 1."""
        total, busy = busy_seconds(Path("/proc/stat").read_text())
        total_before, busy_before = self._busy_at_start
        own = _own_seconds() - self._own_at_start
        if total <= total_before:
            return 0.0
        return round(max(0.0, busy - busy_before - own) / (total - total_before), 3)


def busy_seconds(stat: str) -> tuple[float, float]:
    """Read /proc/stat: seconds of all processors since start, and those in which they worked."""
    # guest times, the ninth and tenth column, are part of the first two
    ticks = [int(value) for value in stat.splitlines()[0].split()[1:9]]
    second = os.sysconf("SC_CLK_TCK")
    idle = sum(ticks[column] for column in _IDLE_COLUMNS)
    return sum(ticks) / second, (sum(ticks) - idle) / second


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
