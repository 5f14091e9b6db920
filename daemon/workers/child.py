"""A child process that speaks in lines: started, read to its end, killed and reaped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...io.redaction import redacted
from ..fence import Fence

log = logging.getLogger("upframe.work")


# What the kernel and stderr tell of a worker.

_KEPT_BYTES = 8192
_KEPT_LINES = 40
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Tail:
    """The last lines of a stream, however much comes."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._bytes = (self._bytes + data)[-_KEPT_BYTES:]

    @property
    def text(self) -> str | None:
        """The last lines, without the passwords of URLs; None if nothing came."""
        text = self._bytes.decode(errors="replace")
        if len(self._bytes) == _KEPT_BYTES:  # a secret may have been cut
            text = text.partition("\n")[2]
        lines = text.strip().splitlines()
        return redacted("\n".join(lines[-_KEPT_LINES:])) or None


def rss_bytes_of(pid: int) -> int:
    """Read the resident memory of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def end_of(returncode: int) -> str:
    """Say how a process ended."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-returncode}"
    hint = " (out of memory?)" if -returncode == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


_REAP_SECONDS = 10.0
_READ_BYTES = 1 << 16
_LINE_BYTES = 64 << 20  # a report may list many warnings
_OWN_BUSINESS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
"""Variables of the daemon's that are none of its children's."""
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


class LineChild:
    """One process that is told something on stdin and answers on stdout, a line each.

    Whoever starts it ends it, with `kill`. What its lines mean is for who derives from it: `_take`
    is given each, and `_closed` called when there will be no more.

    Args:
        name: of its tasks and in the log, such as ``worker 0``.
        command: its words.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = tuple(command)
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._why_killed: str | None = None
        self.tail = Tail()
        """Of its stderr."""

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process id; None before it was started."""
        return None if self._process is None else self._process.pid

    @property
    def rss_bytes(self) -> int:
        """Its resident memory; 0 where it has none."""
        return rss_bytes_of(self.pid) if self.pid is not None and self.alive else 0

    @property
    def crashed(self) -> bool:
        """Whether it ended by a fault of its own, such as a segmentation fault."""
        ended = 0 if self._process is None else self._process.returncode or 0
        return -ended in _FAULTS

    @property
    def end(self) -> str:
        """How and why it ended, for people."""
        if self._process is None:
            return "was never started"
        if self._why_killed is not None:
            return f"was killed: {self._why_killed}"
        return end_of(self._process.returncode or 0)

    async def start(self) -> None:
        """Start it.

        Raises:
            OSError: if there can be no more processes.
        """
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the daemon, which then decides
        )
        for work, kind in ((self._listen(process), "lines"), (self._drain(process), "stderr")):
            self._tasks.append(asyncio.create_task(work, name=f"{self.name} {kind}"))
        if self._why_killed is not None:  # while it was on its way
            self.kill_now(self._why_killed)

    def say(self, line: bytes) -> None:
        """Send a line. Whether anybody is there to read it shows by the answer."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line)

    def hang_up(self) -> None:
        """Close its stdin, after what was said."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill_now(self, why: str) -> None:
        """Send SIGKILL, without waiting for what comes of it. One that starts is killed then."""
        if self._process is None or self.alive:
            self._why_killed = self._why_killed or why
        if self.alive and self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # it leads a session, so a group, of its own

    async def ended(self) -> None:
        """Wait until the process is reaped and its pipes are read to their ends."""
        if self._process is None:
            return
        await self._process.wait()
        self.hang_up()
        await asyncio.gather(*self._tasks)

    async def kill(self, why: str) -> None:
        """End it now, and wait until nothing of it is left. Safe to call twice."""
        self.kill_now(why)
        try:
            async with asyncio.timeout(_REAP_SECONDS):
                await self.ended()
        except TimeoutError:  # in a system call that nothing interrupts; we cannot help it
            log.error("%s, process %s, does not end by SIGKILL", self.name, self.pid)

    def _take(self, line: bytes) -> None:
        """Act on a line.

        Raises:
            ValueError: if it makes no sense; then the process is killed.
        """
        raise NotImplementedError

    def _closed(self) -> None:
        """Note that there will be no more lines."""

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        stream = _stream(process.stdout)
        try:
            while (line := await stream.readline()).endswith(b"\n"):
                with Fence("worker", f"line of {self.name}", let=(ValueError,)):
                    self._take(line)
        except ValueError as error:  # no event, or a line without end
            self.kill_now(f"it sent what is no event: {error}")
        finally:
            self._closed()
        await _drained(stream, Tail())

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        await _drained(_stream(process.stderr), self.tail)


async def _drained(stream: asyncio.StreamReader, tail: Tail) -> None:
    """Read to the end: a pipe that nobody reads would stop the worker when it is full."""
    while data := await stream.read(_READ_BYTES):
        tail.feed(data)


def _stream(pipe: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if pipe is None:
        raise ValueError("the worker was started without this pipe")
    return pipe


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OWN_BUSINESS}
