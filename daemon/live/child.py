"""A child process that is fed through its stdin and answers in lines, by one thread for it all.

All its pipes are without blocking and watched together with the end of the process, so that one
thread can feed it, listen to it, and kill it when it no longer takes anything.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, cast

from ...io.redaction import excerpt

KEPT_LINES = 100
"""Of stderr, to be shown only where the child fails."""

_READ_BYTES = 1 << 16
_LINE_BYTES = 1 << 20
_REAP_SECONDS = 10.0


class Waker:
    """Ends another thread's waiting; `wake` and `close` are safe from every thread."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """Give what a selector watches."""
        return self._event

    def wake(self) -> None:
        """End the waiting, or the next one."""
        with self._lock, suppress(BlockingIOError):  # woken so often already
            if not self._closed:
                os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Begin anew."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def wait(self, timeout_seconds: float) -> None:
        """Wait until woken, or for so long."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.select(max(0.0, timeout_seconds))
        self.clear()

    def close(self) -> None:
        """Let go of it; nobody may wait any more. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._event)


class Child:
    """One process; only the thread that started it calls anything here.

    The kernel's ``PR_SET_PDEATHSIG`` tells a child of the end of that thread, so it must live on
    until the child has ended.
    """

    def __init__(self, command: Sequence[str], waker: Waker) -> None:
        """Start it, in a session of its own: Ctrl-C is for us, who then decide.

        Args:
            command: the program and its arguments.
            waker: ends :meth:`turn` early.

        Raises:
            OSError: if there can be no more processes.
        """
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)
        """The last lines of its stderr, without the passwords of URLs."""
        self._outgoing = memoryview(b"")
        self._closing = False
        self._lines: list[bytes] = []
        self._partial: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._watch(waker, waker.clear)
        self._watch(self._pidfd, self._reap)
        for pipe, take in ((self._stdout, self._lines.append), (self._stderr, self._keep)):
            os.set_blocking(pipe.fileno(), False)
            self._watch(pipe, self._reader(pipe, take))
        os.set_blocking(self._stdin.fileno(), False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, as in `subprocess`; None while it runs."""
        return self._process.returncode

    @property
    def unsent_bytes(self) -> int:
        """What it has not taken yet."""
        return len(self._outgoing)

    def send(self, data: bytes) -> None:
        """Add to what it gets; written by :meth:`turn` as far as it takes it."""
        if self._closing or self._stdin.closed:
            return
        if not self._outgoing:
            self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
        self._outgoing = memoryview(bytes(self._outgoing) + data)

    def close_input(self) -> None:
        """End its stdin, as soon as it has taken everything."""
        self._closing = True
        if not self._outgoing:
            self._stdin.close()

    def turn(self, timeout_seconds: float) -> None:
        """Write and read what goes, and wait for that if nothing does, at most for so long."""
        for key, _ in self._selector.select(max(0.0, timeout_seconds)):
            cast("Callable[[], None]", key.data)()

    def lines(self) -> list[bytes]:
        """Give the lines that have come from its stdout since the last time."""
        lines = self._lines[:]
        self._lines.clear()
        return lines

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it has started."""
        if self.returncode is None:  # as long as nobody waited for it, its number is its own
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Kill it if it still runs, and wait until nothing of it is left. Safe to call twice."""
        self.signal(signal.SIGKILL)
        ends = time.monotonic() + _REAP_SECONDS
        while self.returncode is None and time.monotonic() < ends:
            self.turn(ends - time.monotonic())
        self._selector.close()
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    @property
    def _stdin(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdin)

    @property
    def _stdout(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdout)

    @property
    def _stderr(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stderr)

    def _watch(self, what: IO[bytes] | Waker | int, act: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, act)

    def _write(self) -> None:
        try:
            count = os.write(self._stdin.fileno(), self._outgoing[:_READ_BYTES])
        except BlockingIOError:
            return
        except OSError:  # it has closed its end, or has ended: that shows by itself
            count, self._closing = len(self._outgoing), True
        self._outgoing = self._outgoing[count:]
        if not self._outgoing:
            self._selector.unregister(self._stdin)
            if self._closing:
                self._stdin.close()

    def _reader(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> Callable[[], None]:
        def read() -> None:
            """Take what is there; whole lines go on, the rest waits."""
            try:
                data = os.read(pipe.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._selector.unregister(pipe)
            *lines, rest = (self._partial.pop(pipe.fileno(), b"") + data).split(b"\n")
            for line in lines:
                take(line)
            self._partial[pipe.fileno()] = rest if len(rest) <= _LINE_BYTES else b"***"  # no secret

        return read

    def _keep(self, line: bytes) -> None:
        self.tail.append(excerpt(line.decode(errors="replace"), 1000, published=True))

    def _reap(self) -> None:
        """The process has ended: read what it has left, end what it has started, and reap it."""
        self._selector.unregister(self._pidfd)
        for key in list(self._selector.get_map().values()):
            if key.fileobj in (self._stdout, self._stderr):
                self._read_rest(key)
        self.signal(signal.SIGKILL)
        self._process.wait()

    def _read_rest(self, key: selectors.SelectorKey) -> None:
        ready = selectors.DefaultSelector()
        with ready:
            ready.register(key.fileobj, selectors.EVENT_READ)
            while key.fd in self._selector.get_map() and ready.select(0):
                cast("Callable[[], None]", key.data)()
