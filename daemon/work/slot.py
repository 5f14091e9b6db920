"""One place where a job runs: it claims, runs and settles one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ...filters.options import FilterOptions
from ..jobs.errors import StoreBroken
from ..jobs.model import Job, JobProgress
from ..jobs.queue import JobQueue
from ..service.config import JobsConfig
from ..service.fields import about_job
from .choosing import Choosing
from .endings import Endings, Wish
from .messages import Done, Event, Failed, Progressed, Stage, StageBegun, Stopped
from .process import CANCEL_SECONDS, Lost, Outcome, WorkerLost, WorkerProcess, WorkerSettings
from .recovery import settle
from .results import Results
from .retry import error_of

log = logging.getLogger("upframe.work")

_LOOK_SECONDS = 60.0
"""From one look for work to the next, where nothing wakes a slot."""
GIVE_BACK_SECONDS = 2.0
"""That a job gets to stop in order when the daemon ends; then its worker is killed."""
_PAUSE_SECONDS = 10.0
"""While the store cannot be used."""
_TIRED_CODES = (70, 75)
"""Of errors after which a worker is replaced: nobody knows what is wrong, or memory ran out."""


class Slot:
    """Runs jobs on one worker, until it is told to leave or cancelled."""

    def __init__(
        self,
        settings: WorkerSettings,
        queue: JobQueue,
        config: JobsConfig,
        results: Results,
        choosing: Choosing,
        counts: Counter[str],
    ) -> None:
        self.settings = settings
        self.job: Job | None = None
        """The one that it runs."""
        self.worker = WorkerProcess(settings)
        self._queue = queue
        self._config = config
        self._results = results
        self._endings = Endings(queue, config, results, counts)
        self._choosing = choosing
        self._counts = counts
        self._leaving = asyncio.Event()
        self._wish: Wish | None = None
        self._busy = asyncio.Lock()

    @property
    def budgets(self) -> Mapping[Stage, float]:
        """Seconds that each stage may go without progress."""
        return self._config.stage_seconds

    def configure(self, config: JobsConfig) -> None:
        """Follow other limits from the next job on; what workers were started with stays."""
        self._config = config
        self._endings.configure(config)

    async def run(self) -> None:
        """Run jobs until told to leave. If cancelled, what runs is left to the next start."""
        try:
            while not self._leaving.is_set():
                try:
                    await self._next()
                except StoreBroken as error:  # its disk may be full: that passes
                    log.error("cannot take jobs now: %s", error)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_PAUSE_SECONDS):
                            await self._leaving.wait()
            await self.worker.stop()
        finally:
            await self.worker.kill()

    def leave(self) -> None:
        """Begin no further job."""
        self._leaving.set()

    async def give_back(self) -> None:
        """Stop what runs; it is queued again, and this attempt does not count."""
        await self._stop("give back", GIVE_BACK_SECONDS)

    async def warm(self, filters: FilterOptions) -> float:
        """Start the worker if need be, and have it load some models.

        Returns:
            How many seconds the models took.

        Raises:
            WorkerLost: if it fails.
        """
        async with self._busy:
            await self._hire()
            return await self.worker.warm(filters, self.budgets["loading"])

    async def _next(self) -> None:
        job = await self._choosing.claim()
        if job is None:
            await self._wait()
            return
        with about_job(job.id):
            await self._take(job)

    async def _wait(self) -> None:
        """Wait until there may be work, or this slot shall leave."""
        name = f"slot-{self.settings.name}"
        work = self._queue.wait_for_work(_LOOK_SECONDS)
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(work, name=f"{name}-work"),
            asyncio.create_task(self._leaving.wait(), name=f"{name}-leaving"),
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for wait in done:
            wait.result()

    async def _take(self, job: Job) -> None:
        self.job, self._wish = job, None
        self._queue.attach(job.id, self._cancel)
        try:
            async with self._busy:
                outcome = await self._attempt(job)
                await self._endings.record(job, outcome, self._wish)
        finally:
            self._queue.detach(job.id)
            self._choosing.give_up(job)
            self.job = self._wish = None
        await self._retire(outcome)

    async def _attempt(self, job: Job) -> Outcome:
        """Run a job, unless it turns out to be done already."""
        try:
            report = await asyncio.to_thread(settle, job, self._results)
        except OSError as error:
            return Failed(error=error_of(error))
        if report is not None:
            return Done(report=report)
        try:
            if self._wish is None:
                await self._hire()
        except WorkerLost as lost:
            return Lost(lost.error)
        if self._wish is not None:
            return Stopped()
        tell = Teller(self._queue, job.id)
        return await self.worker.run_job(job.id, job.work, self.budgets, tell)

    async def _cancel(self) -> None:
        await self._stop("cancel", CANCEL_SECONDS)

    async def _stop(self, wish: Wish, seconds: float) -> None:
        if self.job is not None:
            self._wish = self._wish or wish
            await self.worker.cancel(seconds)

    async def _hire(self) -> None:
        """Make sure that there is a living worker, unless the job was cancelled meanwhile."""
        if self.worker.alive:
            return
        await self.worker.kill()
        if self._wish is not None:
            return
        self.worker = WorkerProcess(self.settings)
        self._counts["worker_starts"] += 1
        await self.worker.start(self.budgets["loading"])

    async def _retire(self, outcome: Outcome) -> None:
        """Let go of a worker that died, has worked long enough or has grown too large."""
        if not self.worker.alive:
            self._counts["workers_lost"] += isinstance(outcome, Lost)
            await self.worker.kill()
        elif reason := self._reason_to_retire(outcome):
            log.info("worker %s is replaced: %s", self.settings.name, reason)
            self._counts["workers_replaced"] += 1
            await self.worker.stop()

    def _reason_to_retire(self, outcome: Outcome) -> str | None:
        worker, most = self.worker, self._config.recycle_mebibytes
        mebibytes = worker.rss_bytes >> 20
        if worker.num_jobs >= self._config.recycle_jobs:
            return f"it has run {worker.num_jobs} jobs"
        if mebibytes >= most:
            return f"it holds {mebibytes} MiB of memory, wanted less than {most}"
        if isinstance(outcome, Failed) and outcome.error.code in _TIRED_CODES:
            return f"its last job failed with code {outcome.error.code}"
        return None


class Teller:
    """Passes on where a job stands."""

    def __init__(self, queue: JobQueue, job_id: str) -> None:
        self._queue = queue
        self._job_id = job_id
        self._progress = JobProgress(stage="loading")

    def __call__(self, event: Event) -> None:
        """Take one event of the worker."""
        if isinstance(event, StageBegun):
            self._progress = self._progress.model_copy(update={"stage": event.stage})
        elif isinstance(event, Progressed):
            self._progress = JobProgress(
                stage=self._progress.stage,
                frames=event.frames_out,
                total=event.total,
                fps=event.fps,
                eta_seconds=event.eta_seconds,
            )
        self._queue.report_progress(self._job_id, self._progress)
