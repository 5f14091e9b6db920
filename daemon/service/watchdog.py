"""Feed systemd's watchdog, from the event loop, and only while work is really getting on.

A thread that pings proves nothing. Here a ping needs the loop to come round, and every busy stage
to be within its budget. Idle is healthy: without work no progress is needed.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
import time
from collections.abc import Callable

from .notify import Notifier

log = logging.getLogger("upframe.service.watchdog")

_DUMP_SHARE = 0.9
"""Of the watchdog's time: then the loop hangs, and the stacks are worth having before SIGABRT."""


class Watchdog:
    """Pings at a third of the time that systemd allows.

    Args:
        notifier: The way to systemd; without a watchdog there, `run` ends at once.
        trouble: Says what hangs, or None while all is well.
    """

    def __init__(self, notifier: Notifier, trouble: Callable[[], str | None]) -> None:
        self._notifier = notifier
        self._trouble = trouble
        self._since: float | None = None

    async def run(self) -> None:
        """Ping until cancelled."""
        allowed = self._notifier.watchdog_seconds
        if allowed is None:
            return
        try:
            while True:
                self.beat(allowed)
                await asyncio.sleep(allowed / 3)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def beat(self, allowed_seconds: float) -> None:
        """Ping if all is well; after that much trouble in a row, let systemd act."""
        faulthandler.dump_traceback_later(allowed_seconds * _DUMP_SHARE, file=sys.stderr)
        trouble = self._trouble()
        if trouble is None:
            self._since = None
            self._notifier.ping()
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
            log.error("no ping to the watchdog: %s", trouble)
        elif now - self._since >= allowed_seconds / 2:
            log.critical("hung, let the watchdog act: %s", trouble)
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            self._notifier.trigger()
