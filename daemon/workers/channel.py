"""The worker's end of the pipe: requests come in on stdin, events go out on what was stdout.

A thread of its own reads, so that a running job can be cancelled, and so that the end of the pipe,
which means that nobody wants us any more, is noticed at once.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import traceback

from pydantic import ValidationError

from ..convert.progress import Snapshot
from ..exits import Exit
from ..fence import Fence
from ..logfields import told
from .messages import Cancel, Event, Logged, Progressed, Request, RunJob, read_request
from .standard_streams import StandardStreams

_STOPPED_STATUS = 128 + signal.SIGTERM


class Wire:
    """Requests and events. There is one in a process: it takes stdin and stdout for itself."""

    def __init__(self) -> None:
        self._streams = StandardStreams(_STOPPED_STATUS)
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._job: str | None = None
        self._cancelled: str | None = None
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._read, name="upframe-requests", daemon=True).start()

    def send(self, event: Event) -> None:
        """Send an event, from any thread. If nobody listens any more, the process ends."""
        self._streams.write(event.line)

    def next_request(self) -> Request | None:
        """Wait for the next request; None when there will be no more."""
        return self._requests.get()

    def end_job(self) -> None:
        """From now on it is too late to cancel the job."""
        self._job = None

    def was_cancelled(self, job_id: str) -> bool:
        """Whether it was asked to cancel a job."""
        return self._cancelled == job_id

    def _read(self) -> None:
        rest = b""
        while data := self._streams.read():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(_understood(line))
        if self._job is not None:  # nobody wants its result; the daemon's next start cleans up
            os._exit(_STOPPED_STATUS)
        self._requests.put(None)

    def _take(self, request: Request) -> None:
        if not isinstance(request, Cancel):
            if isinstance(request, RunJob):
                self._job = request.id
            self._requests.put(request)
        elif request.id == self._job:
            self._cancelled = request.id
            os.kill(os.getpid(), signal.SIGTERM)

    def _on_signal(self, number: int, _: object) -> None:
        """End at once, unless it is a cancellation that came too late.

        While pictures flow the signal is taken by the pipeline, which stops in order. Before, there
        is nothing worth keeping, and no safe way out of a library in the middle of loading.
        """
        if self._cancelled is not None and self._cancelled != self._job:
            self._cancelled = None
            return
        os._exit(128 + number)


def _understood(line: bytes) -> Request:
    try:
        return read_request(line)
    except ValidationError:  # in this thread nobody would see it, and the daemon would wait
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(Exit.INTERNAL)


class WireLog(logging.Handler):
    """Sends every line of the log to the daemon."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        with Fence("log"):
            text = told(record)
            self._wire.send(Logged(level=record.levelno, logger=record.name, message=text))


class WireDisplay:
    """Sends where a job stands, twice a second."""

    interval_seconds = 0.5

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Send one snapshot."""
        self._wire.send(
            Progressed(
                frames_in=snapshot.frames_in,
                frames_out=snapshot.frames_out,
                total=snapshot.total,
                fps=round(snapshot.fps, 3),
                eta_seconds=snapshot.eta_seconds,
            )
        )
