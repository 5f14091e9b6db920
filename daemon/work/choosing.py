"""Which job is next: the queue's order, but for those whose target has no room for them yet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ..jobs.errors import UnknownJob
from ..jobs.model import Job
from ..jobs.queue import JobQueue
from .space import Room

_LOOK_AT = 16
"""Jobs at the head of the queue; the room of those behind is looked at when they were claimed."""


class Choosing:
    """Claims jobs that can begin, for all slots. The others stay queued and say why.

    Args:
        queue: gives the jobs.
        room: on their targets; what a claimed job needs is taken from it.
    """

    def __init__(self, queue: JobQueue, room: Room) -> None:
        self._queue = queue
        self._room = room
        self._choosing = asyncio.Lock()

    async def claim(self) -> Job | None:
        """Begin an attempt of the first job that is due and has room; None where there is none."""
        async with self._choosing:
            for job in await self._due():
                if (reason := await self._room.take(job)) is not None:
                    await self._put_off(job, reason)
                elif (claimed := await self._queue.claim(limit_ids=[job.id])) is not None:
                    return claimed
                else:  # cancelled meanwhile
                    self._room.give_up(job.id)
            return await self._claim_any()

    def give_up(self, job: Job) -> None:
        """Let others have the room that an ended attempt had."""
        self._room.give_up(job.id)

    async def _due(self) -> list[Job]:
        if self._queue.paused:
            return []
        now = datetime.now(UTC)
        jobs = await self._queue.jobs({"queued"}, _LOOK_AT)
        return [job for job in jobs if job.not_before is None or job.not_before <= now]

    async def _claim_any(self) -> Job | None:
        job = await self._queue.claim()
        if job is None or (reason := await self._room.take(job)) is None:
            return job
        uncounted = job.attempts - 1
        await self._queue.change(
            job.id, "queued", attempts=uncounted, waits_for=reason, not_before=self._later()
        )
        return None

    async def _put_off(self, job: Job, reason: str) -> None:
        with suppress(UnknownJob):  # it ended and was forgotten meanwhile
            await self._queue.update(job.id, waits_for=reason, not_before=self._later())

    def _later(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._room.look_seconds)
