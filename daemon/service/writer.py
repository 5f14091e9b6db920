"""Write lines of the log in a thread: stderr and the journal may block, the event loop must not."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import threading
from contextlib import suppress

_MOST_WAITING = 10_000
"""Lines that wait for a stderr that nobody reads; more are counted and dropped."""
_PATIENCE_SECONDS = 1.0
"""For what waits at the end: a reader that sleeps must not keep the daemon from ending."""


class ThreadedHandler(logging.handlers.QueueHandler):
    """Passes records to another handler, which runs in a thread of its own.

    Args:
        target: Writes the lines; closed with this.
    """

    def __init__(self, target: logging.Handler) -> None:
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MOST_WAITING)
        super().__init__(self._waiting)
        self._target = target
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a line in. Never waits: what does not fit is counted and said when there is room."""
        try:
            if self._lost:
                self._waiting.put_nowait(_loss(self._lost))
                self._lost = 0
            self._waiting.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Write what waits, unless that takes too long. Safe to call twice."""
        try:
            self._waiting.put(None, timeout=_PATIENCE_SECONDS)
        except queue.Full:  # nobody reads: drop what waits, and let the thread end when it wakes
            with suppress(queue.Empty):
                while True:
                    self._waiting.get_nowait()
            self._waiting.put(None)
        self._thread.join(_PATIENCE_SECONDS)
        if not self._thread.is_alive():
            self._target.close()
        super().close()

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._target.handle(record)


def _loss(lines: int) -> logging.LogRecord:
    text = "%d lines of the log were lost: nobody read them in time"
    return logging.LogRecord("upframe.logs", logging.ERROR, __file__, 0, text, (lines,), None)
