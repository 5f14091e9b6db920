"""The queue of jobs: the store for the event loop, the progress of running jobs, subscriptions.

A caller may be cancelled at any moment; a change that was begun is finished and published all the
same, so subscribers always hear what the store holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, Self, TypeVar

from ..errors import IllegalChange, StoreBroken, UnknownJob
from ..tasks import within
from .model import Job, JobProgress, State
from .store import JobStore, altered, job_of_row

log = logging.getLogger("upframe.jobs")

CANCEL_SECONDS = 10.0
"""For a running job to end after it was asked to stop."""
_PAUSE_SECONDS = 0.05  # between two portions of records to delete: others write too

Result = TypeVar("Result")
ChangeKind = Literal["state", "progress", "removed"]
Stop = Callable[[], Awaitable[None]]
Renew = Callable[[Job], Awaitable[dict[str, object]]]
"""Returns new values of fields of a job that is to be queued again."""
_FORGET_SECONDS = 3600.0


class _StoreThreads:
    """Runs calls of the store on threads, each to its end.

    One thread writes, so that changes are published in the order in which they were made. The
    threads are our own: scans of a network share that hangs do not delay them.
    """

    def __init__(self) -> None:
        self._writing = ThreadPoolExecutor(1, "job-store-writes")
        self._reading = ThreadPoolExecutor(2, "job-store-reads")
        self._unfinished: set[asyncio.Task[Any]] = set()

    async def read(self, call: Callable[[], Result]) -> Result:
        """Run a call that changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def write(
        self, call: Callable[[], Result], publish: Callable[[Result], object]
    ) -> Result:
        """Make a change and publish it; both happen even if the caller is cancelled."""

        async def run() -> Result:
            result = await asyncio.get_running_loop().run_in_executor(self._writing, call)
            publish(result)
            return result

        return await asyncio.shield(self.begin(run(), "write to the job store"))

    def begin(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Start a task that :meth:`close` waits for."""
        task = asyncio.create_task(work, name=name)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    async def close(self) -> None:
        """Wait for the tasks that were begun, and end the threads."""
        while self._unfinished:
            await asyncio.gather(*self._unfinished, return_exceptions=True)
        self._writing.shutdown(wait=False)
        self._reading.shutdown(wait=False)


@dataclass(frozen=True, slots=True)
class JobChange:
    """A job as it is now, and what of it has changed."""

    job: Job
    kind: ChangeKind


class Subscription:
    """The changes of all jobs: an asynchronous iterator, and a context manager that ends it.

    A slow reader gets only the latest change of each job; a change of state is not hidden by the
    progress that comes after it.
    """

    def __init__(self, on_close: Callable[[Subscription], None]) -> None:
        self._on_close = on_close
        self._waiting: dict[str, JobChange] = {}
        self._filled = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Count the jobs with an unread change."""
        return len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobChange:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()
        await asyncio.sleep(0)  # other tasks go first, however many changes wait here
        return self._waiting.pop(next(iter(self._waiting)))

    def put(self, change: JobChange) -> None:
        """Add a change; it replaces an unread one of the same job."""
        if self._closed:
            return
        before = self._waiting.get(change.job.id)
        if before is not None and before.kind == "state" and change.kind == "progress":
            change = JobChange(change.job, "state")
        self._waiting[change.job.id] = change
        self._filled.set()

    def close(self) -> None:
        """End the iteration after the unread changes. Safe to call twice."""
        self._closed = True
        self._filled.set()
        self._on_close(self)


class JobQueue:
    """The asyncio front of a store, which stays open until its owner closes it after :meth:`close`.

    Raises:
        StoreBroken: from every asynchronous method, if the store fails.
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self._threads = _StoreThreads()
        self._running: dict[str, Job] = {}
        """With their latest progress, which only memory has."""
        self._subscriptions: set[Subscription] = set()
        self._stops: dict[str, Stop] = {}
        self.renew: Renew | None = None
        """Called before a job of a watched folder is queued again; may raise IllegalChange."""
        self._work = asyncio.Event()
        self._changed = asyncio.Event()
        self.paused = False
        """Whether no job is started any more, as while draining."""

    async def close(self) -> None:
        """Finish what is being written, end all subscriptions."""
        await self._threads.close()
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def subscribe(self) -> Subscription:
        """Follow all changes from now on, until the subscription is closed."""
        subscription = Subscription(self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    async def get(self, id: str) -> Job:  # noqa: A002
        """Read a job, as :meth:`JobStore.get` does."""
        return self._with_progress(await self._threads.read(partial(self.store.get, id)))

    async def jobs(
        self, states: Collection[State] | None = None, limit: int | None = None
    ) -> list[Job]:
        """Read jobs, as :meth:`JobStore.jobs` does."""
        jobs = await self._threads.read(partial(self.store.jobs, states, limit))
        return [self._with_progress(job) for job in jobs]

    async def bodies(
        self, states: Collection[State] | None = None, limit: int | None = None
    ) -> list[str]:
        """Read jobs as JSON, as :meth:`JobStore.bodies` does: for long lists."""
        bodies = await self._threads.read(partial(self.store.bodies, states, limit))
        for index, body in enumerate(bodies):
            job = job_of_row(body, None)
            if job.state != "running":  # these come first, and only they have newer progress
                break
            bodies[index] = self._with_progress(job).model_dump_json(exclude={"report"})
        return bodies

    async def counts(self) -> dict[State, int]:
        """Count the jobs in each state."""
        return await self._threads.read(self.store.counts)

    async def prove(self) -> None:
        """Check that the store can be written, down to the disk."""
        await self._threads.write(self.store.prove, lambda _: None)

    def _with_progress(self, job: Job) -> Job:
        running = self._running.get(job.id)
        if running is None or job.state != "running":
            return job
        return altered(job, progress=running.progress)

    async def submit(self, job: Job) -> tuple[Job, bool]:
        """Add a job, as :meth:`JobStore.add` does; return it with its latest progress."""
        job, new = await self._threads.write(
            partial(self.store.add, job), lambda one: one[1] and self._publish_written(one[0])
        )
        return self._with_progress(job), new

    async def writer_of(self, sink: str, new_id: str = "") -> str | None:
        """Find another job with the same output, as :meth:`JobStore.writer_of` does."""
        return await self._threads.read(partial(self.store.writer_of, sink, new_id))

    async def change(
        self,
        id: str,  # noqa: A002
        state: State,
        *,
        expected: Collection[State] | None = None,
        **fields: object,
    ) -> Job:
        """Change the state of a job, as :meth:`JobStore.change` does.

        Its latest progress is stored with it when it ends.
        """
        running = self._running.get(id)
        if running is not None and state != "queued":
            fields.setdefault("progress", running.progress)
        call = partial(self.store.change, id, state, expected=expected, **fields)
        return await self._threads.write(call, self._publish_written)

    async def update(self, id: str, **fields: object) -> Job:  # noqa: A002
        """Write fields of a job, as :meth:`JobStore.update` does."""
        call = partial(self.store.update, id, **fields)
        return await self._threads.write(call, self._publish_written)

    async def retry(self, id: str) -> Job:  # noqa: A002
        """Queue a job again, as :meth:`JobStore.retry` does.

        That of a watched folder gets its file back, and the folder's present options.
        """
        job, renewed = await self.get(id), dict[str, object]()
        if self.renew and job.origin == "watch" and job.state in ("failed", "cancelled"):
            renewed = await self.renew(job)
        call = partial(self.store.retry, id, renewed)
        return await self._threads.write(call, self._publish_written)

    async def retry_failed(self) -> list[Job]:
        """Queue every job again that has failed by now."""
        now, retried = datetime.now(UTC), list[Job]()
        for job in await self.jobs(("failed",)) if self.renew else ():
            if job.origin == "watch":
                try:
                    retried.append(await self.retry(job.id))
                except (IllegalChange, UnknownJob, TimeoutError) as error:
                    log.warning("job %s is not tried again: %s", job.id, error or "no answer")
        but = "watch" if self.renew else None
        call = partial(self.store.retry_failed, now, but_origin=but)
        while jobs := await self._threads.write(call, lambda jobs: self._publish_written(*jobs)):
            retried += jobs
        return retried

    async def forget(self, ended_before: datetime) -> list[Job]:
        """Delete the records of some jobs, as :meth:`JobStore.forget` does."""
        call = partial(self.store.forget, ended_before)
        return await self._threads.write(call, lambda jobs: self._publish("removed", *jobs))

    def report_progress(self, id: str, progress: JobProgress) -> None:  # noqa: A002
        """Set the progress of a running job, in memory; for other jobs it is ignored."""
        job = self._running.get(id)
        if job is not None:
            self._running[id] = job = altered(job, progress=progress)
            self._publish("progress", job)

    def _publish(self, kind: ChangeKind, *jobs: Job) -> None:
        for job in jobs:
            for subscription in tuple(self._subscriptions):
                subscription.put(JobChange(job, kind))

    def _publish_written(self, *jobs: Job) -> None:
        """Keep memory in step with the store, and publish the jobs."""
        for job in jobs:
            self._running.pop(job.id, None)
            if job.state == "running":
                self._running[job.id] = job
            self._publish("state", job)
            if job.state == "queued":
                self._work.set()
        self._set_changed()

    def _set_changed(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def claim(
        self, now: datetime | None = None, *, limit_ids: Collection[str] | None = None
    ) -> Job | None:
        """Begin an attempt of the job whose turn it is; None if none is due, or while paused.

        If the caller is cancelled or the queue paused meanwhile, the job is queued again.
        """
        if limit_ids is None:
            self._work.clear()  # set again by whatever comes after the look at the store
        if self.paused:
            return None
        claiming = self._threads.begin(self._claim(now or datetime.now(UTC), limit_ids), "claim")
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._return_claimed)
            raise

    async def _claim(self, now: datetime, limit_ids: Collection[str] | None) -> Job | None:
        def publish(job: Job | None) -> None:
            if job is not None:
                self._work.set()  # there may be more
                self._publish_written(job)

        call = partial(self.store.claim, now, limit_ids=limit_ids)
        job = await self._threads.write(call, publish)
        if job is not None and self.paused:
            await self._give_back(job)
            return None
        return job

    def _return_claimed(self, claiming: asyncio.Task[Job | None]) -> None:
        """Queue a claimed job again whose caller is gone."""
        job = None if claiming.cancelled() or claiming.exception() else claiming.result()
        if job is not None:
            self._threads.begin(self._give_back(job), f"give {job.id} back")

    async def _give_back(self, job: Job) -> Job:
        return await self.change(job.id, "queued", attempts=job.attempts - 1)

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Wait until a claim may find something: a job came or became due.

        Call it after a claim that returned None; after another there may be more jobs, and this
        returns at once.
        """
        now = datetime.now(UTC)
        due = await self._threads.read(partial(self.store.next_due, now))
        if due is not None:
            timeout_seconds = min(timeout_seconds, (due - now).total_seconds())
        await within(timeout_seconds, self._work.wait())

    async def cancel(self, id: str, timeout_seconds: float = CANCEL_SECONDS) -> Job:  # noqa: A002
        """Cancel a job: a queued one at once, a running one by what is attached to it.

        Returns:
            The job, cancelled; also if it was so before.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if it is done or failed, or ended so before it could be stopped.
            TimeoutError: if it did not stop in time; it still may.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._cancel(id)
        except TimeoutError:
            text = f"job {id} was asked to stop, but still runs after {timeout_seconds:g} s"
            raise TimeoutError(text) from None

    async def _cancel(self, id: str) -> Job:  # noqa: A002
        called: Stop | None = None
        while True:
            changed = self._changed  # taken before the look, so that no change after it is missed
            job = await self.get(id)
            if job.state == "cancelled":
                return job
            stop = self._stops.get(id)
            if job.state != "running":
                try:
                    return await self.change(id, "cancelled", expected=("queued",))
                except IllegalChange:
                    if job.state != "queued":
                        raise
            elif stop is not None and stop is not called:
                called = stop
                await stop()
            else:
                await changed.wait()

    def attach(self, id: str, stop: Stop) -> None:  # noqa: A002
        """Set how a running job is stopped; the scheduler then records it as cancelled."""
        self._stops[id] = stop
        self._set_changed()

    def detach(self, id: str) -> None:  # noqa: A002
        """Undo `attach`, when the attempt has ended."""
        self._stops.pop(id, None)


async def forget_regularly(
    queue: JobQueue, keep_days: float, *, interval_seconds: float = _FORGET_SECONDS
) -> None:
    """Delete the records of jobs some days after they ended, until cancelled."""
    while True:
        try:
            forgotten = await forget_old(queue, keep_days)
        except StoreBroken as error:  # a disk that is full now may have room in an hour
            log.warning("old jobs could not be dropped: %s", error)
        else:
            if forgotten:
                log.info("dropped the records of %d jobs of %g days ago", forgotten, keep_days)
        await asyncio.sleep(interval_seconds)


async def forget_old(queue: JobQueue, keep_days: float) -> int:
    """Delete every job that ended more than `keep_days` ago, in portions; return their number.

    Raises:
        StoreBroken: if the store fails.
    """
    before = datetime.now(UTC) - timedelta(days=keep_days)
    forgotten = 0
    while jobs := await queue.forget(before):
        forgotten += len(jobs)
        await asyncio.sleep(_PAUSE_SECONDS)
    return forgotten
