"""A fence around each unit of foreign work: a message, a request, a file, a line of a worker.

What fails in handling one is over: counted, logged once with its traceback, answered where somebody
waits, and never tried again. The loop that took it goes on with the next.
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
"""Where foreign work comes in."""

internal_errors: Counter[Boundary] = Counter()
"""What failed at each boundary since the process began."""

_counting = threading.Lock()
_STDERR_BYTES = 4096  # a pipe that has room for any takes so many without blocking


class Fence:
    """A context manager in which one unit is handled; whatever fails in it ends there.

    Cancellation, exit and interrupt pass, as does all that is no `Exception`.

    Args:
        boundary: where the unit came in.
        unit: what to call it in the log.
        let: errors that pass as well, since the loop outside acts on them.
    """

    def __init__(
        self, boundary: Boundary, unit: object = "", *, let: tuple[type[Exception], ...] = ()
    ) -> None:
        self.error: Exception | None = None
        """What failed, once the block is left."""
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
            if self._boundary == "log":  # a line about it would fail in the same way
                raise error
            text = "%s %s: an internal error ended it; it is not tried again"
            log.error(text, self._boundary, self._unit, exc_info=error)
        except Exception:
            _tell_stderr(self._boundary, error)
        return True


def _tell_stderr(boundary: str, error: Exception) -> None:
    """Say it past the log, without the error's own text, and never wait for a reader."""
    try:
        frames = "".join(traceback.format_tb(error.__traceback__))
        text = f"upframe: internal error at the boundary {boundary}: {type(error).__name__}\n"
        if select.select([], [2], [], 0)[1]:
            os.write(2, (text + frames).encode(errors="replace")[:_STDERR_BYTES])
    except (OSError, ValueError):  # no stderr: it is counted, and that is all that can be done
        return
