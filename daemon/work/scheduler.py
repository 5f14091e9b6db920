"""All slots together: what runs where, how it is warmed up, drained and judged to be well."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...filters.options import FilterOptions
from ..exits import Exit
from ..jobs.model import JobError
from ..jobs.queue import JobQueue
from ..service.config import Config, JobsConfig
from . import results
from .choosing import Choosing
from .messages import Stage
from .process import WorkerLost, WorkerSettings
from .results import Results
from .slot import GIVE_BACK_SECONDS, Slot
from .space import Room

log = logging.getLogger("upframe.work")

_FORCE_SECONDS = GIVE_BACK_SECONDS + 2.0
"""After a drain's time, until the scheduler stops waiting for jobs to be given back."""
_GRACE_SECONDS = 15.0
"""Over its budget a stage is killed; only if that fails for so long is the scheduler not well."""


_WARM_ATTEMPTS = 3
"""Of a worker that dies meanwhile: a kill by chance must not end the daemon, a crash each time may.
"""


class WarmUpFailed(Exception):
    """A worker could not be started, or its models not be loaded or run."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class BusyStage:
    """What a slot does."""

    slot: str
    job_id: str
    stage: Stage
    still_seconds: float
    """Since its last progress."""
    budget_seconds: float


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
        queue: gives the jobs and is told what becomes of them.
        config: of the daemon.
        room: gives out room on the targets' file systems.
    """

    def __init__(self, queue: JobQueue, config: Config, *, room: Room | None = None) -> None:
        self._queue = queue
        self._config = config
        self._counts: Counter[str] = Counter()
        kept = Results(config.state_dir / results.FOLDER)
        choosing = Choosing(queue, room or Room())
        self._slots = [
            Slot(settings, queue, config.jobs, kept, choosing, self._counts)
            for settings in worker_settings(config)
        ]
        self._ended = asyncio.Event()

    def configure(self, config: JobsConfig) -> None:
        """Follow other limits from the next job on; slots, devices and precision stay."""
        for slot in self._slots:
            slot.configure(config)

    async def run(self) -> None:
        """Run jobs until drained. If cancelled, workers are killed and jobs left to recovery."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(slot.run(), name=f"slot-{slot.settings.name}")
        finally:
            self._ended.set()

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, let what runs end for a time, and give back what is left then."""
        self._queue.paused = True
        for slot in self._slots:
            slot.leave()
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            await self._give_back(seconds)

    async def _give_back(self, seconds: float) -> None:
        log.info("giving back %d jobs that did not end in %g s", len(self.busy_stages()), seconds)
        try:
            async with asyncio.timeout(_FORCE_SECONDS), asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(slot.give_back(), name=f"give-back-{slot.settings.name}")
                await self._ended.wait()
        except TimeoutError:  # the store cannot be written, or a process hangs in the kernel
            log.error("jobs could not be given back; the next start finds them")

    async def warm_up(self, tell: Callable[[str], None] | None = None) -> None:
        """Start all workers, and have each run every set of models that is configured once.

        To be called before `run`.

        Args:
            tell: told in a few words what is done at the moment.

        Raises:
            WarmUpFailed: by the first that fails; no worker is left then.
        """
        wanted = filters_to_warm(self._config)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._warm(slot, wanted, tell or log.debug),
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
                raise WarmUpFailed(error)

    def busy_stages(self) -> list[BusyStage]:
        """Tell what every busy slot does, and for how long it has stood still."""
        return [
            BusyStage(
                slot=slot.settings.name,
                job_id=slot.job.id,
                stage=stall.stage,
                still_seconds=stall.still_seconds,
                budget_seconds=stall.budget_seconds,
            )
            for slot in self._slots
            if slot.job is not None and (stall := slot.worker.stall) is not None
        ]

    def trouble(self) -> str | None:
        """Say what hangs although it should have been killed; None while all is well."""
        for busy in self.busy_stages():
            if busy.still_seconds > busy.budget_seconds + _GRACE_SECONDS:
                still = f"{busy.still_seconds:.0f} s"
                return f"slot {busy.slot} has stood still in {busy.stage} for {still}"
        return None

    def healthy(self) -> bool:
        """Whether every busy stage is within its budget, or was just killed for not being so."""
        return self.trouble() is None

    def workers(self) -> list[WorkerStatus]:
        """Look at all workers."""
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
        self, slot: Slot, wanted: Sequence[FilterOptions], tell: Callable[[str], None]
    ) -> JobError | None:
        name = slot.settings.name
        tell(f"starting worker {name}")
        for attempts_left in reversed(range(_WARM_ATTEMPTS)):
            try:
                for filters in wanted:
                    seconds = await slot.warm(filters)
                    tell(f"worker {name} is warm after {seconds:.1f} s")
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
    """Whether a worker did not say this itself, but was killed, crashed or hung."""
    return error.retryable and error.code == Exit.INTERNAL


def filters_to_warm(config: Config) -> list[FilterOptions]:
    """Choose the filters of the watched folders; without any, the default of each filter."""
    wanted = list(dict.fromkeys(watch.filters for watch in config.watch))
    default = {"enable_frame_interpolation": True, "enable_upscaling": True}
    return wanted or [FilterOptions.model_validate(default)]


def worker_settings(config: Config) -> list[WorkerSettings]:
    """Say how each slot's worker is started; devices are given out in turn."""
    jobs = config.jobs
    number = jobs.slots or len(jobs.devices)
    shared = number > 1 and "OMP_NUM_THREADS" not in os.environ
    threads = max(1, len(os.sched_getaffinity(0)) // number) if shared else None
    return [
        WorkerSettings(
            name=str(index),
            state_dir=config.state_dir,
            device=jobs.devices[index % len(jobs.devices)],
            precision=jobs.precision,
            weights=config.weights,
            threads=threads,
        )
        for index in range(number)
    ]
