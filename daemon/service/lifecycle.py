"""The life of the daemon's process: signals, the lock of its state, tasks restarted on failure."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ..backoff import Backoff
from ..errors import AlreadyRunning

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

    Args:
        name: for the log, and of the task.
        on_failure: called with the name after each failure.
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
