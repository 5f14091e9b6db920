"""The queue of jobs, as everybody on the event loop sees it: the store below, off the loop.

Who asks may be cancelled at any moment; a change that was begun is finished and told all the same,
so what subscribers heard is always what the store holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from .errors import IllegalChange
from .model import Job, State
from .store import JobStore
from .view import QueueView

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
