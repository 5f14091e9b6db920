"""Probes whether files are video, in a process that may crash or hang over any of them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ...io.root import Root
from ..config import Config
from ..exits import Exit
from ..jobs.model import ProbeVerdict
from .process import WorkerLost, WorkerProcess, WorkerSettings

log = logging.getLogger("upframe.work")

_START_SECONDS = 60.0


class FileProber:
    """Probes one file after the other. `aclose` ends its process.

    Args:
        config: of the daemon.
        timeout_seconds: for one file.
        idle_seconds: without a file, after which the process is stopped until the next one.
    """

    def __init__(
        self, config: Config, *, timeout_seconds: float = 30.0, idle_seconds: float = 60.0
    ) -> None:
        self._settings = WorkerSettings("prober", config.state_dir, runs_jobs=False)
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._worker = WorkerProcess(self._settings)
        self._lock = asyncio.Lock()
        self._resting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is no process."""
        return self._worker.pid if self._worker.alive else None

    async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
        """Probe a file, below a root. Never raises for what the file does to the process."""
        async with self._lock:
            await self._wake()
            try:
                return await self._probe(path, root)
            except BaseException:  # its answer would be taken for that of the next file
                await self._worker.kill()
                raise
            finally:
                self._resting = asyncio.create_task(self._rest(), name="prober-rest")

    async def aclose(self) -> None:
        """End the process."""
        async with self._lock:
            await self._wake()
            await self._worker.stop()

    async def _probe(self, path: Path, root: Root | None) -> ProbeVerdict:
        try:
            if not self._worker.alive:
                await self._start()
        except WorkerLost as lost:
            return ProbeVerdict(kind="unfinished", message=f"{path}: cannot be probed: {lost}")
        try:
            return await self._worker.probe(str(path), self._timeout_seconds, root)
        except WorkerLost as lost:
            log.warning("%s: the prober was lost over it: %s", path, lost)
            return ProbeVerdict(kind=self._blame(lost), message=f"{path}: {lost}")

    def _blame(self, lost: WorkerLost) -> Literal["unfinished", "refused"]:
        """Blame the file if it crashes decoders or is too large, not if the process was killed."""
        if self._worker.alive:
            later = lost.error.retryable and lost.error.code != Exit.TRY_LATER
            return "unfinished" if later else "refused"
        return "refused" if self._worker.crashed else "unfinished"

    async def _start(self) -> None:
        await self._worker.kill()
        self._worker = WorkerProcess(self._settings)
        await self._worker.start(_START_SECONDS)

    async def _rest(self) -> None:
        await asyncio.sleep(self._idle_seconds)
        await self._worker.stop()

    async def _wake(self) -> None:
        """End the countdown of the idle time."""
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.cancel()
            with suppress(asyncio.CancelledError):
                await resting
