"""A child process: fed on stdin, heard in lines, killed and reaped, all by one thread.

Its pipes never block and are watched together with the end of the process, so that one thread can
feed it, listen to it, and kill it when it no longer takes anything. A thread without an event loop
calls :meth:`Child.turn`; an event loop calls it whenever :meth:`Child.fileno` is readable.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, cast

from .redaction import excerpt, one_line

_KEPT_LINES = 100
_SHOWN_LINES = 40
_READ_BYTES = 1 << 16
_LINE_BYTES = 64 << 20
"""Of stdout: a report may list many warnings."""
_REAP_SECONDS = 10.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SHOWN_CHARACTERS = 1000
_TEXT_CHARACTERS = 8192
_LOG_LINE_BYTES = 1 << 16


def rss_bytes_of(pid: int) -> int:
    """Return the resident memory of a process, 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def exit_text(returncode: int | None) -> str:
    """Describe how a process ended, as the rest of a sentence."""
    if returncode is None:
        return "does not end by SIGKILL"
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-returncode}"
    hint = " (out of memory?)" if -returncode == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def kill_on_parent_death(parent: int) -> bool:
    """Have the kernel kill this process when its parent, given by its process id, ends.

    More exactly: at the end of the thread that started it, which must therefore live on for as long
    as the process is wanted.

    Returns:
        Whether the parent is still there; if not, the kernel will not kill us any more.

    Raises:
        OSError: if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    return os.getppid() == parent


# a foreign program cannot ask for it: Python does, and then becomes the program by exec.
# PR_SET_PDEATHSIG (linux/prctl.h) is 1, SIGKILL 9; where the parent is gone, it is too late to ask
_ASK_AND_EXEC = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0);"
    " os.getppid() == int(sys.argv[1]) and os.execvp(sys.argv[2], sys.argv[2:])"
)


def with_parent_death(command: Sequence[str]) -> list[str]:
    """Return a command that runs a foreign program under :func:`kill_on_parent_death`.

    The process that runs it keeps its process id.
    """
    return [sys.executable, "-I", "-S", "-c", _ASK_AND_EXEC, str(os.getpid()), *command]


class Waker:
    """Ends another thread's waiting; `wake` and `close` are safe from every thread."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """Return the descriptor that a selector watches."""
        return self._event

    def wake(self) -> None:
        """End the current wait, or the next one."""
        with self._lock, suppress(BlockingIOError):  # woken so often already
            if not self._closed:
                os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Forget that it was woken."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def wait(self, timeout_seconds: float) -> None:
        """Wait until woken, or until the timeout."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.select(max(0.0, timeout_seconds))
        self.clear()

    def close(self) -> None:
        """Close it; no thread may wait any more. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._event)


class ParentPipes:
    """Our own stdin and stdout, taken as the pipes to our parent. There is one in a process.

    Whatever a library prints goes to stderr from then on, and no library can read stdin.
    """

    def __init__(self) -> None:
        self.stdin = os.fdopen(os.dup(0), "rb")
        self._stdout = os.dup(1)
        self._writing = threading.Lock()
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        os.dup2(2, 1)

    def write(self, data: bytes) -> None:
        """Write data to stdout as a whole, from any thread.

        Raises:
            OSError: if the parent no longer reads it.
        """
        left = memoryview(data)
        with self._writing:
            while left:
                left = left[os.write(self._stdout, left) :]


class _LineSplitter:
    """Splits a stream into lines; one too long becomes ``***``, for a cut may show secrets."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """Add data, return the lines that are complete."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = self.rest + lines[0] if not self._too_long else b"***"
            self._rest, self._too_long = bytearray(), False
        self._rest += rest
        if self._too_long or len(self._rest) > self._max_bytes:
            self._rest, self._too_long = bytearray(), True
        return lines

    @property
    def rest(self) -> bytes:
        """The line that is not complete yet."""
        return b"***" if self._too_long else bytes(self._rest)


class Tail:
    """The last lines of a stream, in bounded memory."""

    def __init__(self) -> None:
        self._splitter = _LineSplitter(_LOG_LINE_BYTES)
        self._lines: deque[bytes] = deque(maxlen=_KEPT_LINES)

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._lines += self._splitter.feed(data.replace(b"\r", b"\n"))

    def lines(self, *, published: bool = False) -> list[str]:
        """Return the last lines without secrets; see :func:`redacted` for `published`."""
        lines = (*self._lines, self._splitter.rest)
        texts = (line.decode(errors="replace").strip() for line in lines)
        return [excerpt(text, _SHOWN_CHARACTERS, published=published) for text in texts if text]

    @property
    def text(self) -> str | None:
        """The last lines as one text without secrets; None if nothing came."""
        return "\n".join(self.lines()[-_SHOWN_LINES:])[-_TEXT_CHARACTERS:] or None


class Child:
    """One process; only the thread that started it calls anything here.

    It runs in a session of its own, since Ctrl-C is for us to decide on. If it asks to die with its
    parent (:func:`kill_on_parent_death`), the kernel kills it at the end of the thread that started
    it, so that thread must live on until the child has ended. Its `waker` ends :meth:`turn` early;
    `environment` None is ours. Without `new_session` it is left in our process group, so that a
    kill of ours takes it along. Without `text` its stdout is bytes, for :meth:`read` instead of
    :meth:`lines`. It has the descriptors `pass_fds` as well, by the same numbers.

    Raises:
        OSError: if the process cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        waker: Waker | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        new_session: bool = True,
        text: bool = True,
        pass_fds: Sequence[int] = (),
    ) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            start_new_session=new_session,
            pass_fds=pass_fds,
        )
        self.stdin = cast("IO[bytes]", self._process.stdin)
        """The pipe that :meth:`send` writes to; only to look at, or to set its size."""
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._stderr = cast("IO[bytes]", self._process.stderr)
        self.tail = Tail()
        """Of its stderr."""
        self.stdout_ended = False
        """Whether nothing more will come from it."""
        self._send_signal = os.killpg if new_session else os.kill
        self._unsent = bytearray()
        self._closing = False
        self._lines: list[bytes] = []
        self._bytes = bytearray()
        self._splitter = _LineSplitter(_LINE_BYTES)
        self._selector = selectors.EpollSelector()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._watch(self._pidfd, self._reap)
        if waker is not None:
            self._watch(waker, waker.clear)
        take_stdout = self._take_lines if text else self._bytes.extend
        for stream, take in ((self._stdout, take_stdout), (self._stderr, self.tail.feed)):
            os.set_blocking(stream.fileno(), False)
            self._watch(stream, partial(self._read, stream, take))
        os.set_blocking(self.stdin.fileno(), False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, as in `subprocess`; None until :meth:`turn` has reaped it."""
        return self._process.returncode

    @property
    def end(self) -> str:
        """How it ended, and its last words."""
        last = self.tail.lines()[-1:]
        return one_line(": ".join([exit_text(self.returncode), *last]), 500)

    @property
    def unsent_bytes(self) -> int:
        """What it has not taken yet."""
        return len(self._unsent)

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever :meth:`turn` has something to do."""
        return self._selector.fileno()

    def send(self, data: bytes) -> None:
        """Queue data for its stdin; :meth:`turn` writes as much as it takes.

        Data for a child that has ended, or has closed its stdin, is dropped.
        """
        if self._closing or self.stdin.closed:
            return
        if not self._unsent:
            self._selector.register(self.stdin, selectors.EVENT_WRITE, self._write)
        self._unsent += data

    def close_stdin(self) -> None:
        """Close its stdin as soon as it has taken everything."""
        self._closing = True
        if not self._unsent:
            self.stdin.close()

    def turn(self, timeout_seconds: float) -> None:
        """Write and read what is possible; if nothing is, wait for it until the timeout."""
        for key, _ in self._selector.select(max(0.0, timeout_seconds)):
            if key.fd in self._selector.get_map():  # still: one may have ended another
                cast("Callable[[], None]", key.data)()

    def lines(self) -> list[bytes]:
        """Return the lines of its stdout that have come since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of its stdout, as far as :meth:`turn` has read them."""
        data = bytes(self._bytes[:size])
        del self._bytes[:size]
        return data

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it has started in its session."""
        if self.returncode is None:  # as long as it is not reaped, the number is its own
            with suppress(ProcessLookupError):
                self._send_signal(self.pid, number)

    def close(self, grace_seconds: float = 0.0) -> None:
        """Kill it unless it ends in time, and wait until nothing of it is left.

        Safe to call twice.
        """
        self._turn_to_end(grace_seconds)
        self.signal(signal.SIGKILL)
        self._turn_to_end(_REAP_SECONDS)
        self._selector.close()
        for pipe in (self.stdin, self._stdout, self._stderr):
            pipe.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _turn_to_end(self, timeout_seconds: float) -> None:
        ends = time.monotonic() + timeout_seconds
        while self.returncode is None and (left := ends - time.monotonic()) > 0:
            self.turn(left)

    def _watch(self, what: IO[bytes] | Waker | int, act: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, act)

    def _write(self) -> None:
        try:
            count = os.write(self.stdin.fileno(), self._unsent[:_READ_BYTES])
        except BlockingIOError:
            return
        except OSError:  # it has closed its end, or has ended: that shows by itself
            count, self._closing = len(self._unsent), True
        del self._unsent[:count]
        if not self._unsent:
            self._selector.unregister(self.stdin)
            if self._closing:
                self.stdin.close()

    def _take_lines(self, data: bytes) -> None:
        self._lines += self._splitter.feed(data)

    def _read(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
        """Read what is there; at the end, stop watching the pipe."""
        try:
            data = os.read(pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(pipe)
            self.stdout_ended = self.stdout_ended or pipe is self._stdout
        take(data)

    def _reap(self) -> None:
        """The process has ended: read what it has left, end what it has started, and reap it."""
        self._selector.unregister(self._pidfd)
        for key in list(self._selector.get_map().values()):
            if key.fileobj in (self._stdout, self._stderr):
                with selectors.DefaultSelector() as ready:
                    ready.register(key.fileobj, selectors.EVENT_READ)
                    while key.fd in self._selector.get_map() and ready.select(0):
                        cast("Callable[[], None]", key.data)()
        self.stdout_ended = True
        self.signal(signal.SIGKILL)
        self._process.wait()
