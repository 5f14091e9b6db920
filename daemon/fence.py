"""A fence around each unit of external input: a message, a request, a file, a line of a worker.

If handling a unit fails, the error is counted and logged once with its traceback, the client gets
an error, and the unit is not retried. The loop continues with the next one.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import traceback
from collections import Counter
from types import TracebackType
from typing import Literal, Self

log = logging.getLogger("upframe.fence")

Boundary = Literal["mqtt", "control", "http", "file", "event", "job", "worker", "live", "log"]
"""Where external input arrives."""

internal_errors: Counter[Boundary] = Counter()
"""Failures at each boundary since the process started."""

_counting = threading.Lock()
_STDERR_BYTES = 4096  # a writable pipe accepts as many without blocking


class Fence:
    """A context manager that handles one unit, and suppresses every `Exception` in it.

    Cancellation, exit and interrupt propagate, and errors in `let`, on which the loop outside acts.
    The log names the unit, and the boundary where it arrived.
    """

    def __init__(
        self, boundary: Boundary, unit: object = "", *, let: tuple[type[Exception], ...] = ()
    ) -> None:
        self.error: Exception | None = None
        """The suppressed error, after the block."""
        self._boundary: Boundary = boundary
        self._unit = unit
        self._let = let

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, self._let):
            return False
        self.error = error
        with _counting:
            internal_errors[self._boundary] += 1
        try:
            if self._boundary == "log":  # logging the error would fail in the same way
                raise error
            text = "%s %s: an internal error ended it; it is not tried again"
            log.error(text, self._boundary, self._unit, exc_info=error)
        except Exception:
            _write_stderr(self._boundary, error)
        return True


def _write_stderr(boundary: str, error: Exception) -> None:
    """Report an error without the log and without its message, and never block."""
    try:
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = f"upframe: internal error at the boundary {boundary}: {type(error).__name__}\n"
        if select.select([], [2], [], 0)[1]:
            os.write(2, (text + frames).encode(errors="replace")[:_STDERR_BYTES])
    except (OSError, ValueError):  # no stderr: the error is only counted
        return
