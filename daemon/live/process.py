"""The worker process of one live stream as the daemon sees it: started, heard, ended, reaped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...io.redaction import excerpt
from ..fence import Fence
from ..workers import worker_lock
from ..workers.child import LineChild
from .order import LiveOrder
from .status import LiveStatus, status_of

Command = Callable[[str, Path], Sequence[str]]
"""Gives the words that start a worker, by the stream's name and the state directory."""


_REAP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Farewell:
    """What a worker said of its end; one that died said nothing."""

    code: int
    """Of the table in :mod:`upframe.daemon.exits`."""
    message: str


def command_of(name: str, state_dir: Path) -> list[str]:
    """Say how the worker of a stream is started."""
    lock = state_dir / worker_lock.FOLDER / f"live-{name}.lock"
    # -P: nothing is imported from the folder in which somebody started the daemon
    words = [sys.executable, "-P", "-m", "upframe.daemon.live.worker"]
    return [*words, "--parent", str(os.getpid()), "--lock", str(lock)]


class LiveProcess(LineChild):
    """One worker of one stream. Whoever starts it ends it, with `finish` or `kill`.

    Args:
        stream: its name.
        command: the words that start it.
        on_status: is told each status that it sends.
        news: is set by each status, and at the end of its lines.
    """

    def __init__(
        self,
        stream: str,
        command: Sequence[str],
        on_status: Callable[[LiveStatus], None],
        news: asyncio.Event,
    ) -> None:
        super().__init__(f"live {stream}", command)
        self._stream = stream
        self._on_status = on_status
        self._news = news
        self.num_statuses = 0
        """That it has sent."""
        self.is_over = False
        """Whether there will be no more lines."""
        self.farewell: Farewell | None = None
        """What it said of its end."""

    async def begin(self, order: LiveOrder) -> None:
        """Start it, and tell it what to do.

        Raises:
            OSError: if there can be no more processes.
        """
        await self.start()
        self.say(order.line)

    async def gone(self) -> None:
        """Wait for its end, once its lines are over; kill it if it goes on without them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_REAP_SECONDS):
                await self.ended()
        await self.kill("it closed its pipe and went on")

    async def finish(self, seconds: float) -> None:
        """Have it end well, and wait until nothing of it is left; kill it after a time."""
        self.hang_up()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended()
        await self.kill(f"it did not end within {seconds:g} s")

    def _take(self, line: bytes) -> None:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError(f"got {excerpt(repr(line), 80)}, wanted an object")
        try:
            self._understand(cast("dict[str, Any]", document))
        except KeyError as error:
            raise ValueError(f"its line has no {error}") from error

    def _understand(self, document: dict[str, Any]) -> None:
        match document.pop("event", None):
            case "status":
                status = status_of(document)
                with Fence("live", f"status of {self._stream}"):
                    self._on_status(status)
                self.num_statuses += 1
                self._news.set()
            case "log":
                logger = logging.getLogger(str(document["logger"]))
                text, _, trace = str(document["message"]).partition("\n")
                about = {"source": self._stream, "trace": trace}
                logger.log(int(document["level"]), "%s", text, extra=about)
            case "ended":
                self.farewell = Farewell(int(document["code"]), str(document["message"]))
            case other:
                raise ValueError(f"got event {other!r}, wanted status, log or ended")

    def _closed(self) -> None:
        self.is_over = True
        self._news.set()
