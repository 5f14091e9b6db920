"""The part of the queue that only looks: jobs as they stand now, and as they change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from .live import Live
from .model import Job, JobProgress, State
from .offload import Offload
from .rows import job_of_row
from .store import JobStore
from .subscription import Subscription


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

    def report_progress(self, id: str, progress: JobProgress) -> None:  # noqa: A002
        """Tell where a running job stands; kept in memory. Of other jobs it is ignored."""
        self._live.progressed(id, progress)

    def subscribe(self) -> Subscription:
        """Follow all changes from now on, until the subscription is closed."""
        return self._live.subscribe()
