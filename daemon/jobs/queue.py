"""The queue of jobs, as everybody on the event loop sees it: the store below, off the loop.

Who asks may be cancelled at any moment; a change that was begun is finished and told all the same,
so what subscribers heard is always what the store holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, Self, TypeVar

from ..errors import IllegalChange
from .database import altered, job_of_row
from .model import Job, JobProgress, State
from .store import JobStore

# Calls of a blocking store from the event loop, on threads of its own.

Result = TypeVar("Result")


class Offload:
    """Runs calls on threads, and what was begun to its end.

    One thread writes, so that changes are told in the order in which they were made. The threads
    are our own, so that no hanging scan of a network share keeps a change from being recorded.
    """

    def __init__(self) -> None:
        self._writing = ThreadPoolExecutor(1, "job-store-writes")
        self._reading = ThreadPoolExecutor(2, "job-store-reads")
        self._unfinished: set[asyncio.Task[Any]] = set()

    async def read(self, call: Callable[[], Result]) -> Result:
        """Run a call that changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def write(self, call: Callable[[], Result], tell: Callable[[Result], None]) -> Result:
        """Make a change and tell it on the loop; both happen even if the caller is cancelled."""

        async def run() -> Result:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._writing, call)
            tell(result)
            return result

        return await asyncio.shield(self.begin(run(), "write to the job store"))

    def begin(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Start a task that :meth:`close` waits for."""
        task = asyncio.create_task(work, name=name)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    async def close(self) -> None:
        """Wait for what was begun, and end the threads."""
        while self._unfinished:
            await asyncio.gather(*self._unfinished, return_exceptions=True)
        self._writing.shutdown(wait=False)
        self._reading.shutdown(wait=False)


# Changes of jobs as they happen, for who follows them: the latest of each job, never a backlog.

ChangeKind = Literal["state", "progress", "removed"]


@dataclass(frozen=True, slots=True)
class JobChange:
    """A job as it is now, and what about it has changed."""

    job: Job
    kind: ChangeKind


class Subscription:
    """Follows all jobs: an asynchronous iterator, and a context manager that ends it.

    A slow reader misses what was overtaken: of each job only the latest is kept, and a change of
    state is not hidden by the progress that comes after it.
    """

    def __init__(self, on_close: Callable[[Subscription], None]) -> None:
        self._on_close = on_close
        self._waiting: dict[str, JobChange] = {}
        self._filled = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Count the jobs with a change that was not read yet."""
        return len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobChange:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()
        await asyncio.sleep(0)  # others on the loop go first, however much is waiting here
        return self._waiting.pop(next(iter(self._waiting)))

    def put(self, change: JobChange) -> None:
        """Take the next change; what is not read yet of the same job is overtaken by it."""
        if self._closed:
            return
        before = self._waiting.get(change.job.id)
        if before is not None and before.kind == "state" and change.kind == "progress":
            change = JobChange(change.job, "state")
        self._waiting[change.job.id] = change
        self._filled.set()

    def close(self) -> None:
        """End the iteration after what is waiting. Safe to call twice."""
        self._closed = True
        self._filled.set()
        self._on_close(self)


# What only memory knows of jobs: the progress of those that run, and who follows it.


class Live:
    """The running jobs with their latest progress, and the subscriptions to all jobs."""

    def __init__(self) -> None:
        self.last_change: dict[str, float] = {}
        """Of every running job: when its state or progress changed last, on the loop's clock."""
        self._running: dict[str, Job] = {}
        self._subscriptions: set[Subscription] = set()

    def subscribe(self) -> Subscription:
        """Follow all changes from now on, until the subscription is closed."""
        subscription = Subscription(self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def current(self, job: Job) -> Job:
        """Give a stored job the progress that only memory has."""
        running = self._running.get(job.id)
        if running is None or job.state != "running":
            return job
        return altered(job, progress=running.progress)

    def progress_of(self, id: str) -> JobProgress | None:  # noqa: A002
        """Tell the progress of a running job; None if it does not run."""
        running = self._running.get(id)
        return None if running is None else running.progress

    def progressed(self, id: str, progress: JobProgress) -> None:  # noqa: A002
        """Note the progress of a running job and pass it on; of other jobs it means nothing."""
        job = self._running.get(id)
        if job is not None:
            self._running[id] = job = altered(job, progress=progress)
            self.last_change[id] = asyncio.get_running_loop().time()
            self.publish(job, "progress")

    def written(self, job: Job) -> None:
        """Note a job as it was stored, and pass it on."""
        if job.state == "running":
            self._running[job.id] = job
            self.last_change[job.id] = asyncio.get_running_loop().time()
        else:
            self._running.pop(job.id, None)
            self.last_change.pop(job.id, None)
        self.publish(job, "state")

    def publish(self, job: Job, kind: ChangeKind) -> None:
        """Tell everybody who follows."""
        for subscription in tuple(self._subscriptions):
            subscription.put(JobChange(job, kind))


# The part of the queue that only looks: jobs as they stand now, and as they change.


class QueueView:
    """Reads the store off the loop, and adds the progress that only memory has.

    Raises:
        StoreBroken: from every asynchronous method, if the store fails.
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self._offload = Offload()
        self._live = Live()

    @property
    def last_change(self) -> Mapping[str, float]:
        """Of every running job: when its state or progress changed last, on the loop's clock."""
        return self._live.last_change

    async def get(self, id: str) -> Job:  # noqa: A002
        """Read a job with its latest progress.

        Raises:
            UnknownJob: if there is none of that id.
        """
        return self._live.current(await self._offload.read(partial(self.store.get, id)))

    async def find(self, idempotency_key: str) -> Job | None:
        """Read the job of a key; None where there is none."""
        job = await self._offload.read(partial(self.store.find, idempotency_key))
        return None if job is None else self._live.current(job)

    async def jobs(
        self, states: Collection[State] | None = None, limit: int | None = None
    ) -> list[Job]:
        """Read jobs: running, then queued in the order of their turn, then ended, latest first."""
        jobs = await self._offload.read(partial(self.store.jobs, states, limit))
        return [self._live.current(job) for job in jobs]

    async def bodies(
        self, states: Collection[State] | None = None, limit: int | None = None
    ) -> list[str]:
        """Read jobs as JSON without their reports, in the same order: for long lists."""
        bodies = await self._offload.read(partial(self.store.bodies, states, limit))
        for index, body in enumerate(bodies):
            job = job_of_row(body, None)
            if job.state != "running":  # these stand first, and only they have newer progress
                break
            bodies[index] = self._live.current(job).model_dump_json(exclude={"report"})
        return bodies

    async def counts(self) -> dict[State, int]:
        """Count the jobs in each state."""
        return await self._offload.read(self.store.counts)

    async def prove(self) -> None:
        """See whether the store can be written, down to the disk."""
        await self._offload.write(self.store.prove, lambda _: None)

    def report_progress(self, id: str, progress: JobProgress) -> None:  # noqa: A002
        """Tell where a running job stands; kept in memory. Of other jobs it is ignored."""
        self._live.progressed(id, progress)

    def subscribe(self) -> Subscription:
        """Follow all changes from now on, until the subscription is closed."""
        return self._live.subscribe()


Stop = Callable[[], Awaitable[None]]

CANCEL_SECONDS = 10.0
"""That a running job gets to end after it was told to stop."""


class JobQueue(QueueView):
    """The asyncio front of a store.

    Args:
        store: stays open until its owner closes it, after :meth:`close`.

    Raises:
        StoreBroken: from every asynchronous method, if the store fails.
    """

    def __init__(self, store: JobStore) -> None:
        super().__init__(store)
        self._stops: dict[str, Stop] = {}
        self._work = asyncio.Event()
        self._moved = asyncio.Event()
        self._paused = False

    async def close(self) -> None:
        """Finish what is being written, end all subscriptions."""
        await self._offload.close()
        self._live.close()

    @property
    def paused(self) -> bool:
        """Whether no job is given out, as while draining."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._work.set()

    async def submit(self, job: Job) -> tuple[Job, bool]:
        """Take a job, unless it is known already.

        Returns:
            The job as it stands, and whether it is new.

        Raises:
            Conflict: if its id stands for other work.
        """

        def tell(result: tuple[Job, bool]) -> None:
            if result[1]:
                self._tell(result[0])

        job, new = await self._offload.write(partial(self.store.add, job), tell)
        return self._live.current(job), new

    async def change(
        self,
        id: str,  # noqa: A002
        state: State,
        *,
        expected: Collection[State] | None = None,
        **fields: object,
    ) -> Job:
        """Change the state of a job, as :meth:`JobStore.change` does.

        The progress that was reported is stored with it when the job ends.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if its state does not allow it.
        """
        progress = self._live.progress_of(id)
        if progress is not None and state != "queued":
            fields.setdefault("progress", progress)
        return await self._offload.write(
            partial(self.store.change, id, state, expected=expected, **fields), self._tell
        )

    async def update(self, id: str, **fields: object) -> Job:  # noqa: A002
        """Write fields of a job without a change of state; subscribers hear of it.

        Raises:
            UnknownJob: if there is no such job.
        """
        return await self._offload.write(partial(self.store.update, id, **fields), self._tell)

    async def claim(
        self, now: datetime | None = None, *, limit_ids: Collection[str] | None = None
    ) -> Job | None:
        """Begin an attempt of the job whose turn it is; None where none is due, or if paused.

        If the caller is cancelled meanwhile, or the queue paused, the job is given back.
        """
        if limit_ids is None:
            self._work.clear()  # whatever comes from here on is not in what we are about to see
        if self._paused:
            return None
        claiming = self._offload.begin(self._claim(now or datetime.now(UTC), limit_ids), "claim")
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claiming.add_done_callback(self._return_claimed)
            raise

    async def _claim(self, now: datetime, limit_ids: Collection[str] | None) -> Job | None:
        call = partial(self.store.claim, now, limit_ids=limit_ids)
        job = await self._offload.write(call, self._tell_claim)
        if job is not None and self._paused:
            await self._give_back(job)
            return None
        return job

    def _return_claimed(self, claiming: asyncio.Task[Job | None]) -> None:
        """Nobody is there any more to run what was claimed."""
        job = None if claiming.cancelled() or claiming.exception() else claiming.result()
        if job is not None:
            self._offload.begin(self._give_back(job), f"give {job.id} back")

    async def _give_back(self, job: Job) -> Job:
        return await self.change(job.id, "queued", attempts=job.attempts - 1)

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Wait until a claim may find something: a job came, became due, or the pause is over.

        Meant for who has just claimed and got None; after a claim that got a job there may be more,
        and this returns at once.
        """
        now = datetime.now(UTC)
        due = await self._offload.read(partial(self.store.next_due, now))
        if due is not None:
            timeout_seconds = min(timeout_seconds, (due - now).total_seconds())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._work.wait()

    async def cancel(self, id: str, timeout_seconds: float = CANCEL_SECONDS) -> Job:  # noqa: A002
        """Cancel a job: a queued one at once, a running one through what is attached to it.

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
            text = f"job {id} was told to stop, but runs on after {timeout_seconds:g} s"
            raise TimeoutError(text) from None

    async def _cancel(self, id: str) -> Job:  # noqa: A002
        told: Stop | None = None
        while True:
            moved = self._moved  # before the look, so that nothing is missed after it
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
            elif stop is not None and stop is not told:
                told = stop
                await stop()
            else:
                await moved.wait()

    def attach(self, id: str, stop: Stop) -> None:  # noqa: A002
        """Say how a running job is stopped; the scheduler then records it as cancelled."""
        self._stops[id] = stop
        self._move()

    def detach(self, id: str) -> None:  # noqa: A002
        """Take that back, when the attempt has ended."""
        self._stops.pop(id, None)

    async def retry(self, id: str) -> Job:  # noqa: A002
        """Queue a job again that failed or was cancelled, with all its attempts.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if it is in another state.
        """
        return await self._offload.write(partial(self.store.retry, id), self._tell)

    async def retry_failed(self) -> list[Job]:
        """Queue every job again that has failed by now."""
        before, retried = datetime.now(UTC), list[Job]()
        while jobs := await self._offload.write(
            partial(self.store.retry_failed, before), self._tell_all
        ):
            retried += jobs
        return retried

    async def forget(self, ended_before: datetime) -> list[Job]:
        """Drop the records of some jobs that ended before a time; subscribers hear of it."""

        def tell(jobs: list[Job]) -> None:
            for job in jobs:
                self._live.publish(job, "removed")

        return await self._offload.write(partial(self.store.forget, ended_before), tell)

    def _tell_claim(self, job: Job | None) -> None:
        if job is not None:
            self._work.set()  # there may be more
            self._tell(job)

    def _tell(self, job: Job) -> None:
        """Take note of a job that was written, and pass it on."""
        self._live.written(job)
        if job.state == "queued":
            self._work.set()
        self._move()

    def _tell_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._tell(job)

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
