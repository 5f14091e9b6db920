"""A child process that speaks in lines of JSON: started, read to its end, killed and reaped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import results, tether
from .messages import Event, Logged, Request, read_event
from .tail import Tail, end_of, rss_bytes_of

log = logging.getLogger("upframe.work")

_REAP_SECONDS = 10.0
_READ_BYTES = 1 << 16
_LINE_BYTES = 64 << 20  # a report may list many warnings
_OWN_BUSINESS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
"""Variables of the daemon's that are none of its workers'."""
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How to start a worker."""

    name: str
    """Of its lock and in the log, such as ``0``."""
    state_dir: Path
    runs_jobs: bool = True
    """Or only probes files."""
    device: str = "auto"
    precision: str = "auto"
    weights: str = "auto"
    threads: int | None = None
    """For computing on the CPU; None leaves the choice to torch."""

    @property
    def command(self) -> list[str]:
        """The command line."""
        lock = self.state_dir / tether.FOLDER / f"{self.name}.lock"
        # -P: nothing is imported from the folder in which somebody started the daemon
        words = [sys.executable, "-P", "-m", "upframe.daemon.work.worker"]
        words += ["--parent", str(os.getpid()), "--lock", str(lock)]
        if not self.runs_jobs:
            return words
        words += ["--results", str(self.state_dir / results.FOLDER), "--device", self.device]
        words += ["--precision", self.precision, "--weights", self.weights]
        return words + ([] if self.threads is None else ["--threads", str(self.threads)])


class Child:
    """One worker process, without what it is asked. Whoever starts it ends it, with `kill`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._why_killed: str | None = None
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        """What it sends; None when there will be no more."""
        self.job_id: str | None = None
        """Of the job that what it logs is about."""
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
            *self._settings.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the daemon, which then decides
        )
        for work, kind in ((self._listen(process), "events"), (self._drain(process), "stderr")):
            name = f"worker-{self._settings.name}-{kind}"
            self._tasks.append(asyncio.create_task(work, name=name))
        if self._why_killed is not None:  # while it was on its way
            self.kill_now(self._why_killed)

    def send(self, request: Request) -> None:
        """Send a request. Whether anybody is there to read it shows by the answer."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(request.line)

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
        if self._process.stdin is not None:
            self._process.stdin.close()
        await asyncio.gather(*self._tasks)

    async def kill(self, why: str) -> None:
        """End it now, and wait until nothing of it is left. Safe to call twice."""
        self.kill_now(why)
        try:
            async with asyncio.timeout(_REAP_SECONDS):
                await self.ended()
        except TimeoutError:  # in a system call that nothing interrupts; we cannot help it
            name, pid = self._settings.name, self.pid
            log.error("worker %s, process %s, does not end by SIGKILL", name, pid)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        stream = _stream(process.stdout)
        try:
            while (line := await stream.readline()).endswith(b"\n"):
                self._take(read_event(line))
        except ValueError as error:  # no event, or a line without end
            self.kill_now(f"it sent what is no event: {error}")
        finally:
            self.events.put_nowait(None)
        await _drained(stream, Tail())

    def _take(self, event: Event) -> None:
        if isinstance(event, Logged):
            known = None if self.job_id is None else {"job_id": self.job_id}
            logging.getLogger(event.logger).log(event.level, "%s", event.message, extra=known)
        else:
            self.events.put_nowait(event)

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
