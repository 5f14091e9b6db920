"""The life of the daemon's process: signals, the lock of its state, tasks restarted on failure."""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ..backoff import Backoff
from ..errors import AlreadyRunning

# Reports to systemd: one datagram for each message, by the protocol of sd_notify(3).
#
# Without systemd (no `NOTIFY_SOCKET`) every call does nothing, and no failure here fails the
# service.

_notify_log = logging.getLogger("upframe.service.systemd")

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
                _notify_log.warning("cannot report %s to systemd: %s", lines[0], error)
            self._failed = True
            return False
        return True


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())


class Watchdog:
    """Pings systemd at a third of the time that it allows, while work makes progress.

    A thread that pings would prove nothing. Here a ping needs the event loop to run, and every busy
    stage to be within its time limit. Idle is healthy: without work no progress is needed.
    `trouble` returns what hangs, or None while all is well. Without a watchdog there, `run` ends at
    once.
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
            _notify_log.error("no ping to the watchdog: %s", trouble)
        elif now - self._since >= allowed_seconds / 2:
            _notify_log.critical("hung, let the watchdog act: %s", trouble)
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            self._notifier.trigger()


log = logging.getLogger("upframe.service.lifecycle")

LOCK_NAME = "upframe.lock"
"""Of the file in the state directory."""

_STEADY_SECONDS = 60.0
"""After which a restarted task counts as well again."""

_ENDING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM or SIGINT: drain; a second one: stop at once; SIGHUP: reload.

    An asynchronous context manager: signals are handled within.
    """

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload = asyncio.Event()
        self.number = 0
        """The latest signal."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        for number in (*_ENDING, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _end(self, number: int) -> None:
        self.number = number
        if self.drain.is_set():
            log.warning("%s again: stopping at once", signal.Signals(number).name)
            self.at_once.set()
        else:
            self.drain.set()


def leave_within(seconds: float, code: int) -> None:
    """End the process by force after a time, if threads that hang keep it from exiting.

    A thread that is stuck in a dead network share cannot be ended in any other way. Nothing is
    lost: what the store holds is on the disk.
    """
    timer = threading.Timer(seconds, _leave, (code,))
    timer.daemon = True
    timer.name = "leave"
    timer.start()


def _leave(code: int) -> None:
    hanging = (each.name for each in threading.enumerate() if not each.daemon)
    text = f"upframe: ended by force, since these threads hang: {', '.join(hanging)}\n"
    os.write(2, text.encode())
    os._exit(code)


class SupervisedTask:
    """A task beside the jobs, such as MQTT: restarted when it fails, and never the daemon's end.

    It is logged by its name, with which `on_failure` is called after each failure.
    """

    def __init__(self, name: str, on_failure: Callable[[str], None]) -> None:
        self.name = name
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        """Begin; `run` is called again after each failure."""
        self._task = asyncio.create_task(self._supervise(run), name=self.name)

    async def stop(self) -> None:
        """Cancel the task, and wait until it has ended. Safe if it never began."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _supervise(self, run: Callable[[], Awaitable[None]]) -> None:
        clock = asyncio.get_running_loop().time
        backoff = Backoff(parts=(1.0, 1.0), good_seconds=_STEADY_SECONDS)
        while True:
            began = clock()
            try:
                await run()
                return
            except OSError as error:  # such as an address in use
                failure: Exception | None = None
                text = str(error)
            except Exception as error:  # whatever it is, the rest of the daemon must live on
                failure, text = error, "failed"
            self._on_failure(self.name)
            backoff.held(clock() - began)
            delay = backoff.next_seconds()
            log.error("%s: %s; restarts in %.0f s", self.name, text, delay, exc_info=failure)
            await asyncio.sleep(delay)


@contextmanager
def state_lock(state_dir: Path) -> Generator[None]:
    """Lock a state directory for one daemon within a context; make it if necessary.

    Raises:
        AlreadyRunning: if another daemon has it.
        OSError: if it cannot be made or written.
    """
    state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    # the file is never removed: otherwise two daemons could lock two files of one name
    file = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 20, 0).decode(errors="replace").strip()
            raise AlreadyRunning(
                f"another daemon (process {holder or 'unknown'}) has the state directory "
                f"{state_dir}: stop it, or give this one a state_dir of its own"
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)
