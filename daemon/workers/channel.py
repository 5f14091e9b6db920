"""The worker's side: bound to its daemon, it receives requests and sends events.

The channel takes stdin and stdout for itself, see :class:`upframe.io.child.ParentPipes`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from ...io.child import ParentPipes
from ...io.redaction import redacted_values
from ..fence import Fence
from ..logfields import record_text
from . import worker_lock
from .messages import Event, Logged, Request, read_request


def run_worker(
    parser: argparse.ArgumentParser, serve: Callable[[argparse.Namespace], int]
) -> NoReturn:
    """Bind this process to the daemon of its command line, `serve` it, and end with that status."""
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    arguments = parser.parse_args()
    lock = worker_lock.bind(arguments.parent, arguments.lock)
    status = serve(arguments)
    sys.stderr.flush()
    del lock
    # not sys.exit: a thread of a library may hang in a read, or free tensors too late
    os._exit(status)


class WorkerChannel:
    """Receives requests and sends events. There is one in a process.

    It ends the process with `unheard_status` once no daemon listens any more.
    """

    def __init__(self, unheard_status: int) -> None:
        self._pipes = ParentPipes()
        self._unheard_status = unheard_status

    def requests(self) -> Iterator[Request]:
        """Wait for requests, until the daemon closes its end.

        Raises:
            ValidationError: for a line that is no request.
        """
        for line in self._pipes.stdin:
            if line.endswith(b"\n"):
                yield read_request(line)

    def send(self, event: Event) -> None:
        """Send an event without secrets, from any thread; without a daemon, end the process."""
        values = redacted_values(event.model_dump(mode="json", by_alias=True))
        try:
            self._pipes.write(json.dumps(values).encode() + b"\n")
        except OSError:  # the daemon is gone
            os._exit(self._unheard_status)

    def take_log(self) -> None:
        """Send every line of our log to the daemon from now on."""
        logger = logging.getLogger("upframe")
        logger.handlers[:] = [ChannelLogHandler(self)]
        logger.setLevel(logging.INFO)


class ChannelLogHandler(logging.Handler):
    """Sends every line of the log to the daemon."""

    def __init__(self, channel: WorkerChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        with Fence("log"):
            text = record_text(record)
            self._channel.send(Logged(level=record.levelno, logger=record.name, message=text))
