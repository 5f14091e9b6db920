"""A worker's end of the pipe to the daemon: one order comes in, lines go out, its end is ours."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ...io.redaction import redacted, redacted_values
from ..work.standard_streams import StandardStreams
from .order import LiveOrder
from .status import LiveStatus

_NOBODY_STATUS = 141
"""Of a process whose lines nobody reads any more."""


class Linkage:
    """There is one in a process: it takes stdin and stdout for itself."""

    def __init__(self) -> None:
        self._streams = StandardStreams(_NOBODY_STATUS)

    def order(self) -> LiveOrder | None:
        """Wait for the order; None if nobody wants us any more.

        Raises:
            ValidationError: if what came is none.
        """
        text = b""
        while b"\n" not in text:
            data = self._streams.read()
            if not data:
                return None
            text += data
        return LiveOrder.model_validate_json(text)

    def on_end(self, act: Callable[[], None]) -> None:
        """Have something done, in a thread of its own, once the daemon has closed its end."""
        reading = threading.Thread(target=self._await_end, args=(act,), name="upframe-orders")
        reading.daemon = True  # it may read for as long as the process lives
        reading.start()

    def tell_status(self, status: LiveStatus) -> None:
        """Send where the stream stands, from any thread."""
        self._send({"event": "status", **status.to_json()})

    def tell_log(self, level: int, logger: str, message: str) -> None:
        """Send a line for the log, from any thread."""
        self._send({"event": "log", "level": level, "logger": logger, "message": message})

    def tell_end(self, code: int, message: str) -> None:
        """Send how it ended; the last line."""
        self._send({"event": "ended", "code": code, "message": message})

    def _send(self, document: Mapping[str, Any]) -> None:
        text = json.dumps(redacted_values(document), default=str)
        self._streams.write(text.encode() + b"\n")

    def _await_end(self, act: Callable[[], None]) -> None:
        while self._streams.read():
            pass  # one order is all that we take
        act()


class LinkLog(logging.Handler):
    """Sends every line of the log to the daemon."""

    def __init__(self, linkage: Linkage) -> None:
        super().__init__()
        self._linkage = linkage

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self._linkage.tell_log(record.levelno, record.name, redacted(self.format(record)))
