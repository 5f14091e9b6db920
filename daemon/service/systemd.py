"""Reports to systemd: one datagram for each message, by the protocol of sd_notify(3).

Without systemd (no `NOTIFY_SOCKET`) every call does nothing, and no failure here fails the service.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Self

log = logging.getLogger("upframe.service.systemd")

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_MICROSECONDS = 1_000_000
_PATIENCE_SECONDS = 2.0
"""For messages that are sent once and must arrive; an unread socket has room for only ten."""
_DUMP_SHARE = 0.9
"""Of the watchdog's time: then the loop hangs, and the stacks are dumped before SIGABRT."""


class Notifier:
    """The connection to the service manager."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self.watchdog_seconds = watchdog_seconds
        """Within which the service manager expects a ping; None: it expects none."""
        self._failed = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Find the service manager, and hide it from children, which must not report for us."""
        address, usec, pid = (environment.pop(name, None) for name in _VARIABLES)
        for_us = pid is None or pid == str(os.getpid())
        seconds = int(usec) / _MICROSECONDS if usec and usec.isdigit() and for_us else 0.0
        return cls(address, seconds or None)

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, has ended."""
        self._send("READY=1", _status(status), patience_seconds=_PATIENCE_SECONDS)

    def reloading(self) -> None:
        """Report that the configuration is read again; `ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        lines = ("RELOADING=1", f"MONOTONIC_USEC={now}")
        self._send(*lines, patience_seconds=_PATIENCE_SECONDS)

    def stopping(self, status: str) -> None:
        """Report that the service ends."""
        self._send("STOPPING=1", _status(status), patience_seconds=_PATIENCE_SECONDS)

    def status(self, status: str) -> bool:
        """Report in one line what the service does, for `systemctl status`.

        Returns:
            Whether it was accepted: if not, send it again later.
        """
        return self._send(_status(status))

    def extend(self, seconds: float) -> None:
        """Ask for so much more time, from now, to start or to stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def ping(self) -> None:
        """Report to the watchdog that all is well."""
        self._send("WATCHDOG=1")

    def trigger(self) -> None:
        """Make the watchdog act at once, since the service hangs."""
        self._send("WATCHDOG=trigger")

    def _send(self, *lines: str, patience_seconds: float = 0.0) -> bool:
        if self._address is None:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
                end.settimeout(patience_seconds)  # 0: a full socket must not block the loop
                end.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("cannot report %s to systemd: %s", lines[0], error)
            self._failed = True
            return False
        return True


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())


class Watchdog:
    """Pings systemd at a third of the time that it allows, while work makes progress.

    A thread that pings would prove nothing. Here a ping needs the event loop to run, and every busy
    stage to be within its time limit. Idle is healthy: without work no progress is needed.

    Args:
        notifier: the connection to systemd; without a watchdog there, `run` ends at once.
        trouble: returns what hangs, or None while all is well.
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
        """Ping if all is well; after half of the time in trouble, let systemd act."""
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
