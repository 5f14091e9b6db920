"""Sees every job of a watched folder to its end: also those that ended while we were not there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...io.errors import MediaError
from ..jobs.errors import StoreBroken, UnknownJob
from ..jobs.model import Job
from ..jobs.queue import JobQueue
from ..jobs.store import ENDED, JobStore
from ..jobs.subscription import Subscription
from ..service.config import WatchConfig
from ..service.fields import about_job
from .names import shown
from .outcome import dispose_done, dispose_failed, output_signature
from .records import Records
from .roots import Roots

log = logging.getLogger("upframe.watch")

_RETRY_SECONDS = 60.0  # between two tries to move what could not be moved


class Settler:
    """Deals with the inputs of ended jobs, one after the other.

    Args:
        watches: Whose jobs; a job of none of them is left alone.
        queue: Tells which jobs end.
        store: Remembers which were dealt with.
        retry_seconds: Between two tries of what did not work.
    """

    def __init__(
        self,
        watches: Sequence[WatchConfig],
        queue: JobQueue,
        store: JobStore,
        *,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._watches = watches
        self._queue = queue
        self._records = Records(store)
        self._retry_seconds = retry_seconds
        self._pending: dict[str, str] = {}
        """By job, why it could not be dealt with yet."""
        self._roots = {id(watch): Roots({"input": watch.input}) for watch in watches}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="settle")

    async def run(self) -> None:
        """Settle until cancelled."""
        try:
            with self._queue.subscribe() as changes:  # before the backlog: nothing is missed
                await self._settle_all(await self._read_backlog())
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(changes), name="settle ended jobs")
                    tasks.create_task(self._try_again(), name="settle pending jobs")
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def pending(self) -> dict[str, str]:
        """Tell which jobs could not be dealt with yet, and why."""
        return dict(self._pending)

    async def _follow(self, changes: Subscription) -> None:
        async for change in changes:
            if change.kind == "state" and change.job.ended_for_good:
                await self._settle_all([change.job])

    async def _try_again(self) -> None:
        while True:
            await asyncio.sleep(self._retry_seconds)
            for job_id in list(self._pending):
                try:
                    job = await self._queue.get(job_id)
                except UnknownJob:
                    del self._pending[job_id]
                except StoreBroken as error:  # a full disk now may have room in a minute
                    log.warning("job %s: cannot be looked up: %s", job_id, error)
                else:
                    await self._settle_all([job])

    async def _read_backlog(self) -> list[Job]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._backlog)

    def _backlog(self) -> list[Job]:
        jobs = self._records.store.jobs(ENDED)
        return [job for job in reversed(jobs) if not self._records.is_settled(job)]

    async def _settle_all(self, jobs: Iterable[Job]) -> None:
        loop = asyncio.get_running_loop()
        for job in jobs:
            watch = self._watch_of(job)
            if watch is None or not job.ended_for_good:
                self._pending.pop(job.id, None)
                continue
            why = await loop.run_in_executor(self._thread, self._try, job, watch)
            self._note(job, why)

    def _note(self, job: Job, why: str | None) -> None:
        if why is None:
            self._pending.pop(job.id, None)
            return
        if self._pending.get(job.id) != why:
            text = "%s: job %s is %s, but its input stays where it is for now: %s"
            with about_job(job.id):
                log.warning(text, shown(job.source), job.id, job.state, why)
        self._pending[job.id] = why

    def _try(self, job: Job, watch: WatchConfig) -> str | None:
        """Settle one end of a job; returns why it has to be tried again. Blocks."""
        with about_job(job.id):
            return self._try_to_settle(job, watch)

    def _try_to_settle(self, job: Job, watch: WatchConfig) -> str | None:
        try:
            if self._records.is_settled(job) or not self._is_latest(job):
                return None
            if missing := self._roots[id(watch)].missing():
                return missing
            self._settle(job, watch)
        except (OSError, MediaError, StoreBroken) as error:
            return str(error)
        except Exception as error:
            # One job that trips us must not keep the inputs of all others from being dealt with.
            log.exception("job %s: its input cannot be dealt with", job.id)
            return f"internal error: {type(error).__name__}: {error}"
        return None

    def _is_latest(self, job: Job) -> bool:
        """Tell whether nobody has had the job tried again since it ended so."""
        try:
            return self._records.store.get(job.id).ended == job.ended
        except UnknownJob:
            return False

    def _settle(self, job: Job, watch: WatchConfig) -> None:
        if job.state == "done":
            if (made := output_signature(job)) is not None:
                self._records.set_made(job, made)
            dispose_done(job, watch)
        else:
            self._records.drop_claim(job)
            if job.state == "failed":
                dispose_failed(job, watch)
        self._records.locks(watch.output).release(Path(job.sink), job.id)
        self._records.set_settled(job)

    def _watch_of(self, job: Job) -> WatchConfig | None:
        """Find whose job it is, also after a change of the configuration."""
        if job.origin != "watch":
            return None
        fitting = [
            watch
            for watch in self._watches
            if Path(job.source).is_relative_to(watch.input)
            and Path(job.sink).is_relative_to(watch.output)
        ]
        return max(fitting, key=lambda watch: len(watch.input.parts), default=None)
