"""The life of a process: its signals, and its parts, which are begun again where they fail."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import AlreadyRunning

log = logging.getLogger("upframe.service.lifecycle")


_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0
_STEADY_SECONDS = 60.0
"""After which a part counts as well again."""

_ENDING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM or SIGINT: drain; another one: stop at once; SIGHUP: reload.

    An asynchronous context manager: signals are taken within.
    """

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload = asyncio.Event()
        self.number = 0
        """The signal that came last."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number in (*_ENDING, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _end(self, number: int) -> None:
        self.number = number
        if self.drain.is_set():
            log.warning("%s again: stopping at once", signal.Signals(number).name)
            self.at_once.set()
        else:
            self.drain.set()


async def finished_before(event: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Do some work unless an event comes first, which cancels it.

    Returns:
        Whether the work is done and the event has not come.

    Raises:
        Exception: as the work does.
    """
    working = asyncio.create_task(work, name="until told to stop")
    waiting = asyncio.create_task(event.wait(), name="told to stop")
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.wait({working, waiting})
    if working.cancelled():
        return False
    working.result()
    return not event.is_set()


def leave_within(seconds: float, code: int) -> None:
    """End the process by force after a time, if threads that hang keep it from ending by itself.

    A thread that is stuck in a dead network share cannot be ended in any other way. Nothing is lost
    by it: what the store holds is on the disk.
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


class Part:
    """Something that runs beside the work, such as MQTT, and must not take the daemon with it.

    Args:
        name: For the log, and of its task.
        on_failure: Told the name each time that it failed.
    """

    def __init__(self, name: str, on_failure: Callable[[str], None]) -> None:
        self.name = name
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        """Begin; `run` is called anew after each failure."""
        self._task = asyncio.create_task(self._supervise(run), name=self.name)

    async def stop(self) -> None:
        """End it, and wait until it has. Safe where it never began."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _supervise(self, run: Callable[[], Awaitable[None]]) -> None:
        clock = asyncio.get_running_loop().time
        delay = _FIRST_DELAY_SECONDS
        while True:
            began = clock()
            try:
                await run()
            except OSError as error:  # such as an address that is taken
                self._on_failure(self.name)
                log.error("%s: %s; begins again in %.0f s", self.name, error, delay)
            except Exception:  # whatever it is, the rest of the daemon must live on
                self._on_failure(self.name)
                log.exception("%s failed and begins again in %.0f s", self.name, delay)
            else:
                return
            if clock() - began > _STEADY_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)


# The state directory belongs to one daemon at a time: a lock that ends with the process.

LOCK_NAME = "upframe.lock"


class StateLock:
    """Holds a state directory; makes it where it is not there.

    Raises:
        AlreadyRunning: on entering, if another daemon has it.
        OSError: if it cannot be made or written.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._file = -1

    def __enter__(self) -> Self:
        self._state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self._state_dir / LOCK_NAME
        # the file stays for ever: removing it would let two daemons lock two files of one name
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise AlreadyRunning(
                f"another daemon (process {holder or 'unknown'}) has the state directory "
                f"{self._state_dir}: stop it, or give this one a state_dir of its own"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)
