"""Whether a file has held still: size, time of change and inode, all unmoved for long enough.

Time is taken from a monotonic clock of our own, and only between samples: a server's clock that
runs ahead or behind, and a time of change in the future, make no difference. Every change starts
the wait anew, so that it counts from the last write and not from the discovery.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_LONGEST_DELAY_FACTOR = 60
"""Of the stable time: the most that a file which probed as unfinished waits for its next probe."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells one version of a file from another."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take it from what the file system says."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def open_signature(path: Path) -> Signature:
    """Look at a file by opening it: proves that it can be read, and renews what NFS has cached.

    Raises:
        OSError: if it cannot be read.
    """
    # O_NONBLOCK: what was a file a moment ago may be a FIFO now, and must not hang us
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return Signature.of(os.fstat(descriptor))
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Wait:
    signature: Signature
    since: float
    due: float
    delay: float
    num_delays: int = 0


class Stability:
    """Remembers since when each file has been as it is.

    Args:
        stable_seconds: How long a file must hold still.
    """

    def __init__(self, stable_seconds: float) -> None:
        self._stable_seconds = stable_seconds
        self._waits: dict[Path, _Wait] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, path: object) -> bool:
        return path in self._waits

    def observe(self, path: Path, signature: Signature, now: float) -> bool:
        """Note a sample. Tells whether the file is ready: unmoved since an old enough sample."""
        wait = self._waits.get(path)
        if wait is None or wait.signature != signature:
            due = now + self._stable_seconds
            self._waits[path] = _Wait(signature, now, due, self._stable_seconds)
            return False
        return now >= wait.due

    def postpone(self, path: Path, now: float) -> float:
        """Let a file that looks unfinished wait longer each time; returns the seconds to wait."""
        wait = self._waits[path]
        seconds = wait.delay
        wait.due = now + seconds
        wait.num_delays += 1
        wait.delay = min(2 * seconds, _LONGEST_DELAY_FACTOR * self._stable_seconds)
        return seconds

    def still_seconds(self, path: Path, now: float) -> float:
        """Tell for how long a file is known to have held still."""
        wait = self._waits.get(path)
        return 0.0 if wait is None else now - wait.since

    def num_delays(self, path: Path) -> int:
        """Count how often a file was put off since it has held still."""
        wait = self._waits.get(path)
        return 0 if wait is None else wait.num_delays

    def due(self, now: float) -> list[Path]:
        """List the files that want their next sample."""
        return [path for path, wait in self._waits.items() if now >= wait.due]

    def next_due(self) -> float | None:
        """Tell when the next file wants a sample, on the clock of `now`."""
        return min((wait.due for wait in self._waits.values()), default=None)

    def forget(self, path: Path) -> None:
        """Drop a file that is gone or decided."""
        self._waits.pop(path, None)

    def keep(self, present: Collection[Path]) -> None:
        """Drop every file that is not there any more."""
        for path in self._waits.keys() - set(present):
            del self._waits[path]

    def paths(self) -> list[Path]:
        """List the files that wait."""
        return list(self._waits)
