"""From a file that holds still to a job: probe, place, claim, submit."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from ...io.root import Root, open_folder
from ..config import WatchConfig
from ..exits import Exit
from ..jobs.model import Confinement, Conflict, Job, JobError, Work, job_of
from ..jobs.queue import JobQueue
from ..logfields import about_job
from .inspection import Candidate, Look
from .records import Records, job_id
from .scan import MEDIA_EXTENSIONS, Skip, shown

log = logging.getLogger("upframe.watch")

_GIVE_UP_FACTOR = 360
"""Of the stable time: how long a file may look half-arrived and hold still before it has failed.
With the default of ten seconds, an hour."""

_GIVE_UP_DELAYS = 8
"""And how often it must have been looked at: one bad moment of the prober is no proof."""

_SET_ASIDE = timedelta(seconds=60)
"""That keeps the scheduler off a job which is recorded only to fail."""


class Verdict(Protocol):
    """What a prober says of a file."""

    @property
    def kind(self) -> Literal["video", "unfinished", "refused"]:
        """Whether it can be worked on, may come to that, or never will."""
        ...

    @property
    def message(self) -> str:
        """Why."""
        ...


Probe = Callable[[Path, Root], Awaitable[Verdict]]
"""Of a file, by the name by which it is opened beneath a root."""


class Intake:
    """Takes the ready files of one watched folder.

    Args:
        watch: What is watched.
        look: What found them.
        records: What is remembered.
        queue: Takes the jobs.
        clock: The one that `look` goes by.
    """

    def __init__(
        self,
        watch: WatchConfig,
        look: Look,
        records: Records,
        queue: JobQueue,
        clock: Callable[[], float],
    ) -> None:
        self._watch = watch
        self._output = watch.root(watch.output, records.state_dir)
        self._look = look
        self._records = records
        self._queue = queue
        self._clock = clock
        self.num_taken = 0

    def prepare(self, candidate: Candidate) -> Job | None:
        """Claim the output of a file that is a video, and write its job. Blocks."""
        placement = self._look.placing.place(candidate.path)
        if isinstance(placement, Skip):
            self.put_off(candidate, placement)
            return None
        job = self._job(candidate, placement.sink, overwrite=placement.overwrite)
        try:
            holder = self._records.locks(self._watch).take(placement.sink, job.id)
            if holder is None:
                os.close(open_folder(self._output, placement.sink.parent, create=True))
        except OSError as error:
            detail = f"{shown(placement.sink)}: {error.strerror or error}"
            self.put_off(candidate, Skip(candidate.path, "unwritable", detail))
            return None
        if holder is not None:
            self.put_off(candidate, Skip(candidate.path, "locked", holder))
            return None
        self._records.set_latest(job)
        return job

    def is_same(self, candidate: Candidate) -> bool:
        """Tell whether a file is still the version that was found ready. Blocks."""
        return self._look.is_same(candidate, self._clock())

    async def submit(self, candidate: Candidate, job: Job) -> Job:
        """Queue the job of a file; the same one twice makes no second job."""
        stored, new = await self._submit(candidate, job)
        if new:
            self.num_taken += 1
            text = "%s: taken as job %s, output %s"
            with about_job(stored.id):
                log.info(text, shown(candidate.path), stored.id, shown(stored.sink))
        return stored

    async def _submit(self, candidate: Candidate, job: Job) -> tuple[Job, bool]:
        try:
            return await self._queue.submit(job)
        except Conflict:  # it was run before, dropped since, and had another output then
            log.info("%s: done before, as job %s", shown(candidate.path), job.id)
            return job, False

    def taken(self, candidate: Candidate, job: Job) -> None:
        """Remember that a file has its job. Blocks."""
        self._records.set_taken(candidate.key, "already_done", f"dealt with as job {job.id}")
        self._look.skips.clear(candidate.path)
        self._look.decide(candidate)

    def postpone(self, candidate: Candidate, message: str) -> bool:
        """Let a half-arrived file wait. Tells whether it has waited for too long. Blocks."""
        now, path, stability = self._clock(), candidate.path, self._look.stability
        longest = _GIVE_UP_FACTOR * self._watch.stable_seconds
        tried = stability.num_delays(path) >= _GIVE_UP_DELAYS
        if tried and stability.still_seconds(path, now) >= longest:
            return True
        seconds = stability.postpone(path, now)
        detail = f"{message}; looked at again in {seconds:g} s"
        self._look.skips.say(Skip(path, "unfinished", detail), candidate.signature)
        return False

    def is_failure(self, candidate: Candidate) -> bool:
        """Tell whether a refused file is a damaged video, and not some other file by its name."""
        return candidate.path.suffix.lower() in MEDIA_EXTENSIONS

    def pass_over(self, candidate: Candidate, message: str) -> None:
        """Remember that a file is none of ours. Blocks."""
        self._records.set_taken(candidate.key, "not_video", message)
        self._look.skips.say(Skip(candidate.path, "not_video", message), candidate.signature)
        self._look.decide(candidate)

    async def fail(self, candidate: Candidate, message: str) -> Job:
        """Record a file that cannot be worked on as a failed job, as if a worker had tried."""
        job = self._job(candidate, self._look.placing.sink_of(candidate.path), overwrite=False)
        aside = job.model_copy(update={"not_before": datetime.now(UTC) + _SET_ASIDE})
        stored, new = await self._submit(candidate, aside)
        if new:
            error = JobError(code=Exit.DATA, message=message, retryable=False)
            stored = await self._queue.change(stored.id, "failed", error=error)
        log.warning("%s: failed as job %s: %s", shown(candidate.path), stored.id, message)
        return stored

    def _job(self, candidate: Candidate, sink: Path, *, overwrite: bool) -> Job:
        work = Work(
            source=str(candidate.path),
            sink=str(sink),
            filters=self._watch.filters,
            encoder=self._watch.encoder,
            overwrite=overwrite,
        )
        linked = candidate.file != candidate.path
        confined = Confinement(
            source=candidate.root,
            path=candidate.file if linked else None,
            accepted=candidate.accepted,
            sink=self._output,
        )
        return job_of(
            work,
            confined=confined,
            id=job_id(candidate.path, candidate.key),
            origin="watch",
            idempotency_key=candidate.key,
            priority=self._watch.priority,
        )

    def put_off(self, candidate: Candidate, skip: Skip) -> None:
        """Have a file wait that could not be dealt with now."""
        self._look.stability.postpone(candidate.path, self._clock())
        self._look.skips.say(skip, candidate.signature)
