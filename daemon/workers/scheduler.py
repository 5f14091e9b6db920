"""Runs the queue's jobs on worker processes: slots, warm-up, draining, health."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ...filters.options import FilterOptions
from ..backoff import STORE_STEPS, Backoff
from ..config import Config, JobsConfig
from ..errors import StoreBroken
from ..exits import Exit
from ..fence import Fence
from ..jobs.model import Job, JobError, JobProgress
from ..jobs.queue import JobQueue
from ..logfields import about_job
from ..tasks import finished_before, within
from . import ledger
from .admission import DiskSpace, JobAdmission
from .ledger import Results
from .messages import (
    AccessLimits,
    Event,
    JobDone,
    JobStopped,
    Progressed,
    RequestFailed,
    Stage,
    Warm,
    Warmed,
    error_of,
)
from .outcomes import OutcomeRecorder, StopReason, settle
from .process import (
    CANCEL_SECONDS,
    AttemptOutcome,
    WorkerDied,
    WorkerLost,
    WorkerProcess,
    WorkerSettings,
)
from .ray import SOCKET

log = logging.getLogger("upframe.work")


_LOOK_SECONDS = 60.0
"""After which an idle slot checks for work that it was not woken for."""
GIVE_BACK_SECONDS = 2.0
"""For a job to stop in order when the daemon ends, before its worker is killed."""
_STOP_SECONDS: Mapping[StopReason, float] = {
    "cancel": CANCEL_SECONDS, "give back": GIVE_BACK_SECONDS,
}  # fmt: skip
_TIRED_CODES = (70, 75)
"""Of errors after which a worker is replaced: unknown ones, and memory that ran out."""


class WorkerSlot:
    """Runs jobs on one worker, one after the other, until `leave` or until it is cancelled."""

    def __init__(
        self,
        settings: WorkerSettings,
        queue: JobQueue,
        config: Callable[[], JobsConfig],
        results: Results,
        admission: JobAdmission,
        counts: Counter[str],
    ) -> None:
        self.settings = settings
        self.job: Job | None = None
        """The job that it runs."""
        self.worker = WorkerProcess(settings)
        self._queue = queue
        self._config = config
        self._results = results
        self._recorder = OutcomeRecorder(queue, config, results, counts)
        self._admission = admission
        self._counts = counts
        self._leaving = asyncio.Event()
        self._stop_reason: StopReason | None = None
        self._busy = asyncio.Lock()
        self._backoff = Backoff(STORE_STEPS)

    @property
    def budgets(self) -> Mapping[Stage, float]:
        """Seconds that each stage may go without progress."""
        return self._config().stage_seconds

    async def run(self) -> None:
        """Run jobs until `leave`. If cancelled, the running job is left to the next start."""
        try:
            while not self._leaving.is_set():
                try:
                    await self._next()
                    self._backoff.reset()
                except StoreBroken as error:  # its disk may be full: that passes
                    log.error("cannot take jobs now: %s", error)
                    await within(self._backoff.next_seconds(), self._leaving.wait())
            await self.worker.stop()
        finally:
            await self.worker.kill()

    def leave(self) -> None:
        """Begin no further job."""
        self._leaving.set()

    async def stop(self, reason: StopReason) -> None:
        """Stop the running job; one that is given back is queued again, and does not count."""
        if self.job is not None:
            self._stop_reason = self._stop_reason or reason
            await self.worker.cancel(_STOP_SECONDS[reason])

    async def warm(self, filters: FilterOptions) -> float:
        """Start the worker if it does not run, and have it load some models.

        Returns:
            How many seconds the models took.

        Raises:
            WorkerLost: if it fails.
        """
        async with self._busy:
            await self._start_worker()
            asked = Warm(filters=filters)
            return (await self.worker.ask(asked, self.budgets["loading"], Warmed)).seconds

    async def _next(self) -> None:
        job = await self._admission.claim()
        if job is None:
            await finished_before(self._leaving, self._queue.wait_for_work(_LOOK_SECONDS))
            return
        with about_job(job.id):
            with Fence("job", job.id, let=(StoreBroken,)) as fenced:
                await self._take(job)
            if fenced.error is not None:  # what its worker does is unknown
                await self.worker.kill()
                await self._recorder.give_up(job, fenced.error)

    async def _take(self, job: Job) -> None:
        self.job, self._stop_reason = job, None
        self._queue.attach(job.id, partial(self.stop, "cancel"))
        try:
            async with self._busy:
                outcome = await self._attempt(job)
                await self._recorder.record(job, outcome, self._stop_reason)
        finally:
            self._queue.detach(job.id)
            self._admission.space.release(job.id)
            self.job = self._stop_reason = None
        await self._retire(outcome)

    async def _attempt(self, job: Job) -> AttemptOutcome:
        """Run a job, unless it is done already."""
        try:
            report = await asyncio.to_thread(settle, job, self._results)
        except OSError as error:
            return RequestFailed(error=error_of(error))
        if report is not None:
            return JobDone(report=report)
        try:
            if self._stop_reason is None:
                await self._start_worker()
        except WorkerLost as lost:
            return WorkerDied(lost.error)
        if self._stop_reason is not None:
            return JobStopped()
        limits = AccessLimits.of(job, self._config())

        def record(event: Event) -> None:
            if isinstance(event, Progressed):
                values = event.model_dump(exclude={"kind", "frames_in", "frames_out", "waits"})
                progress = JobProgress(frames=event.frames_out, **values)
                self._queue.report_progress(job.id, progress)

        work, confined = job.work, job.confined
        return await self.worker.run_job(job.id, work, self.budgets, record, confined, limits)

    async def _start_worker(self) -> None:
        """Make sure that the worker runs, unless the job was cancelled meanwhile."""
        if self.worker.alive:
            return
        await self.worker.kill()
        if self._stop_reason is not None:
            return
        self.worker = WorkerProcess(self.settings)
        self._counts["worker_starts"] += 1
        await self.worker.start(self.budgets["loading"])

    async def _retire(self, outcome: AttemptOutcome) -> None:
        """End a worker that died, has run enough jobs or has grown too large."""
        if not self.worker.alive:
            self._counts["workers_lost"] += isinstance(outcome, WorkerDied)
            await self.worker.kill()
        elif reason := self._reason_to_retire(outcome):
            log.info("worker %s is replaced: %s", self.settings.name, reason)
            self._counts["workers_replaced"] += 1
            await self.worker.stop()

    def _reason_to_retire(self, outcome: AttemptOutcome) -> str | None:
        worker, config = self.worker, self._config()
        mebibytes = worker.rss_bytes >> 20
        if worker.num_jobs >= config.recycle_jobs:
            return f"it has run {worker.num_jobs} jobs"
        if mebibytes >= (most := config.recycle_mebibytes):
            return f"it holds {mebibytes} MiB of memory, wanted less than {most}"
        if isinstance(outcome, RequestFailed) and outcome.error.code in _TIRED_CODES:
            return f"its last job failed with code {outcome.error.code}"
        return None


_FORCE_SECONDS = GIVE_BACK_SECONDS + 2.0
"""After the time of a drain, for jobs to be given back."""
_FILMS_OF_CLUSTER = 4
"""At once, unless slots are given: its nodes do the work, but a process here joins each film."""
_GRACE_SECONDS = 15.0
"""Over its budget a worker is killed; only if that fails for so long is there trouble."""


_WARM_ATTEMPTS = 3
"""Of a worker that dies meanwhile: one kill must not end the daemon, a crash each time may."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, for people and for metrics."""

    slot: str
    pid: int | None
    device: str | None
    rss_bytes: int
    num_jobs: int
    job_id: str | None


class Scheduler:
    """Runs the queue's jobs on worker processes.

    Args:
        queue: of the jobs.
        config: of the daemon.
        space: on the targets' file systems.
    """

    def __init__(self, queue: JobQueue, config: Config, *, space: DiskSpace | None = None) -> None:
        self._queue = queue
        self._config, self._jobs = config, config.jobs
        self._counts: Counter[str] = Counter()
        results = Results(config.state_dir / ledger.FOLDER)
        admission = JobAdmission(queue, space or DiskSpace())
        self._slots = [
            WorkerSlot(settings, queue, lambda: self._jobs, results, admission, self._counts)
            for settings in worker_settings(config)
        ]
        self._ended = asyncio.Event()

    def configure(self, config: JobsConfig) -> None:
        """Use other limits from the next job on; slots, devices and precision stay."""
        self._jobs = config

    async def run(self) -> None:
        """Run jobs until drained. If cancelled, kill the workers and leave jobs to recovery."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(slot.run(), name=f"slot-{slot.settings.name}")
        finally:
            self._ended.set()

    async def drain(self, seconds: float) -> None:
        """Begin no further job, let running ones end for a time, and give back the others."""
        self._queue.paused = True
        for slot in self._slots:
            slot.leave()
        if not await within(seconds, self._ended.wait()):
            await self._give_back(seconds)

    async def _give_back(self, seconds: float) -> None:
        busy = sum(slot.job is not None for slot in self._slots)
        log.info("giving back %d jobs that did not end in %g s", busy, seconds)
        try:
            async with asyncio.timeout(_FORCE_SECONDS), asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(
                        slot.stop("give back"), name=f"give-back-{slot.settings.name}"
                    )
                await self._ended.wait()
        except TimeoutError:  # the store cannot be written, or a process hangs in the kernel
            log.error("jobs could not be given back; the next start finds them")

    async def warm_up(self, report: Callable[[str], None] | None = None) -> None:
        """Start all workers, and have each run every configured set of models once.

        Call it before `run`.

        Args:
            report: called with a few words on what is done at the moment.

        Raises:
            WorkerLost: with the first error; no worker is left then.
        """
        wanted = filters_to_warm(self._config)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._warm(slot, wanted, report or log.debug),
                        name=f"warm-{slot.settings.name}",
                    )
                    for slot in self._slots
                ]
        except BaseException:
            await self._kill()
            raise
        for task in tasks:
            if (error := task.result()) is not None:
                await self._kill()
                raise WorkerLost(error)

    def trouble(self) -> str | None:
        """Describe a worker that hangs although it should have been killed; None without one."""
        for slot in self._slots:
            stall = slot.worker.stall
            if slot.job is None or stall is None:
                continue
            if stall.still_seconds > stall.budget_seconds + _GRACE_SECONDS:
                still = f"{stall.still_seconds:.0f} s"
                return f"slot {slot.settings.name} has stood still in {stall.stage} for {still}"
        return None

    def workers(self) -> list[WorkerStatus]:
        """Return the status of every worker."""
        return [
            WorkerStatus(
                slot=slot.settings.name,
                pid=slot.worker.pid if slot.worker.alive else None,
                device=slot.worker.device,
                rss_bytes=slot.worker.rss_bytes,
                num_jobs=slot.worker.num_jobs,
                job_id=None if slot.job is None else slot.job.id,
            )
            for slot in self._slots
        ]

    def statistics(self) -> Mapping[str, int]:
        """Count jobs and workers since the start.

        Names: done, failed, cancelled, retries, worker_starts, workers_lost, workers_replaced.
        """
        return dict(self._counts)

    async def _warm(
        self, slot: WorkerSlot, wanted: Sequence[FilterOptions], report: Callable[[str], None]
    ) -> JobError | None:
        name = slot.settings.name
        report(f"starting worker {name}")
        for attempts_left in reversed(range(_WARM_ATTEMPTS)):
            try:
                for filters in wanted:
                    seconds = await slot.warm(filters)
                    report(f"worker {name} is warm after {seconds:.1f} s")
                return None
            except WorkerLost as lost:
                if not (_died(lost.error) and attempts_left):
                    return lost.error
                log.warning("worker %s is started again: %s", name, lost.error.message)
        raise AssertionError("the last attempt returns")

    async def _kill(self) -> None:
        for slot in self._slots:
            await slot.worker.kill()


def _died(error: JobError) -> bool:
    """Whether a worker did not report this itself, but was killed, crashed or hung."""
    return error.retryable and error.code == Exit.INTERNAL


def filters_to_warm(config: Config) -> list[FilterOptions]:
    """Return the filters of the watched folders; without any, each filter with its defaults."""
    wanted = list(dict.fromkeys(watch.filters for watch in config.watch))
    default = {"enable_frame_interpolation": True, "enable_upscaling": True}
    return wanted or [FilterOptions.model_validate(default)]


def worker_settings(config: Config) -> list[WorkerSettings]:
    """Return the settings of each slot's worker; devices are assigned in turn."""
    jobs, cluster = config.jobs, config.executor.kind == "ray"
    number = jobs.slots or (_FILMS_OF_CLUSTER if cluster else len(jobs.devices))
    shared = number > 1 and not cluster and "OMP_NUM_THREADS" not in os.environ
    threads = max(1, len(os.sched_getaffinity(0)) // number) if shared else None
    return [
        WorkerSettings(
            name=str(index),
            state_dir=config.state_dir,
            device=jobs.devices[index % len(jobs.devices)],
            precision=jobs.precision,
            weights=config.weights,
            threads=threads,
            cluster=config.state_dir / SOCKET if cluster else None,
        )
        for index in range(number)
    ]
