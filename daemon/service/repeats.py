"""Sum up warnings that repeat, so that one sick file or camera cannot fill the disk.

The same warning of the same job or live stream is said once in a while, and then how often it came
again. Where the text differs each time, as with a number of a frame in it, the first twenty are
said.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .fields import subject_of

_VARIANTS = 20
"""Different texts of one warning that are said within the time."""
_MOST_KEYS = 1000
"""Remembered at most; then the oldest is summed up early."""

Key = tuple[str, int, str, str]


@dataclass(slots=True)
class _Run:
    """One warning since it was last said."""

    record: logging.LogRecord
    since: float
    said: int = 1
    held: int = 0


class SummingHandler(logging.Handler):
    """Passes records on to another handler, repeated warnings and errors summed up.

    Args:
        target: Writes what is to be written.
        seconds: In which a warning is said once; 0 says everything.
        clock: Of seconds, monotonic.
    """

    def __init__(
        self,
        target: logging.Handler,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.target = target
        self._seconds = seconds
        self._clock = clock
        self._runs: dict[Key, _Run] = {}
        self._lock_runs = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or count it."""
        if self._seconds <= 0 or record.levelno < logging.WARNING:
            self.target.handle(record)
            return
        for due in self._take(record):
            self.target.handle(due)

    def sum_up(self, *, everything: bool = False) -> None:
        """Write what was held back and whose time is over; call it now and then, and at the end."""
        with self._lock_runs:
            due = self._expired(everything=everything)
        for record in due:
            self.target.handle(record)

    def close(self) -> None:
        """Write what was held back, and close the target."""
        self.sum_up(everything=True)
        self.target.close()
        super().close()

    def _take(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """Count a record in; what is to be written of it and of others."""
        text = record.getMessage()
        subject = str(subject_of(record))
        exact = (record.name, record.levelno, "=" + text, subject)
        loose = (record.name, record.levelno, "~" + str(record.msg), subject)
        with self._lock_runs:
            due = self._expired()
            if not self._hold(exact, record, 1) and not self._hold(loose, record, _VARIANTS):
                due.append(record)
                self._begin(exact, record)
                self._begin(loose, record)
        return due

    def _hold(self, key: Key, record: logging.LogRecord, limit: int) -> bool:
        run = self._runs.get(key)
        if run is None or run.said < limit:
            return False
        run.held += 1
        run.record = record
        return True

    def _begin(self, key: Key, record: logging.LogRecord) -> None:
        run = self._runs.get(key)
        if run is None:
            self._runs[key] = _Run(record, self._clock())
        else:
            run.said += 1

    def _expired(self, *, everything: bool = False) -> list[logging.LogRecord]:
        now = self._clock()
        excess = len(self._runs) - _MOST_KEYS
        due: list[logging.LogRecord] = []
        for index, (key, run) in enumerate(list(self._runs.items())):
            if not everything and index >= excess and now - run.since < self._seconds:
                continue
            del self._runs[key]
            if run.held:
                due.append(_summary(run, now - run.since))
        return due


def _summary(run: _Run, seconds: float) -> logging.LogRecord:
    record = copy.copy(run.record)
    times = "once more" if run.held == 1 else f"{run.held} more times"
    record.msg = f"{run.record.getMessage()} ({times} in {seconds:.0f} s)"
    record.args = None
    record.exc_info = record.exc_text = None
    return record
