"""What only memory knows of jobs: the progress of those that run, and who follows it."""

from __future__ import annotations

import asyncio

from .model import Job, JobProgress
from .rows import altered
from .subscription import ChangeKind, JobChange, Subscription


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
