"""A worker process that runs jobs, by the lines of JSON that it speaks."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from . import results, tether
from .lines import LineChild
from .messages import Event, Logged, Request, read_event


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


class Child(LineChild):
    """One worker process, without what it is asked. Whoever starts it ends it, with `kill`."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(f"worker {settings.name}", settings.command)
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        """What it sends; None when there will be no more."""
        self.job_id: str | None = None
        """Of the job that what it logs is about."""

    def send(self, request: Request) -> None:
        """Send a request. Whether anybody is there to read it shows by the answer."""
        self.say(request.line)

    def _take(self, line: bytes) -> None:
        event = read_event(line)
        if isinstance(event, Logged):
            known = None if self.job_id is None else {"job_id": self.job_id}
            logging.getLogger(event.logger).log(event.level, "%s", event.message, extra=known)
        else:
            self.events.put_nowait(event)

    def _closed(self) -> None:
        self.events.put_nowait(None)
