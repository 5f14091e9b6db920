"""Which job is next: a job begins only if its output fits on the target's file system.

And which can only fail: that is said before its turn, which may be hours away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ...io.files import partial_path
from ...io.redaction import redacted
from ..config import JobsConfig
from ..convert.space import MARGIN_BYTES, device_of, free_bytes, growth, size_text, source_bytes
from ..errors import IllegalChange, StoreBroken, UnknownJob
from ..fence import Fence
from ..jobs.model import Job, JobError, partial_token
from ..jobs.queue import JobQueue
from ..logfields import about_job
from ..specification import ConversionSpec
from .messages import AccessLimits

log = logging.getLogger("upframe.work")


def expected_bytes(work: ConversionSpec) -> int:
    """Estimate the bytes that a job will write by its source; one of unknown size counts as 0.

    Blocks.
    """
    return round(source_bytes(work.source) * growth(work.filters)) + MARGIN_BYTES


_REASONS = ("an answer", "room")
"""The first words of the reasons to wait."""


class DiskSpace:
    """Reserves space: what one running job will still write is not free for another.

    A waiting job is checked again after `look_seconds`; a file system has `answer_seconds` to
    answer. `free` returns the free bytes of a folder's, and may block.
    """

    def __init__(
        self,
        free: Callable[[Path], int | None] = free_bytes,
        *,
        look_seconds: float = 30.0,
        answer_seconds: float = 10.0,
    ) -> None:
        self.look_seconds = look_seconds
        self._free = free
        self._answer_seconds = answer_seconds
        self._reserved: dict[str, _Reservation] = {}
        self._checks: dict[tuple[Path, Path], asyncio.Task[tuple[_Reservation, str | None]]] = {}

    async def reserve(self, job: Job) -> str | None:
        """Reserve space for a job. For one caller at a time.

        Returns:
            Why the job must wait; None if it may begin.
        """
        wanted, missing = await self._check(job)
        if wanted is None:
            reason = f"{_REASONS[0]} of the file systems of {job.source} and {job.sink}"
        elif missing is None:
            self._reserved[job.id] = wanted
            return None
        else:
            reason = f"{_REASONS[1]} in {Path(job.sink).parent}: {missing}"
        reason = redacted(reason)
        if not (job.waits_for or "").startswith(_REASONS):  # once, not at every check
            log.warning("waits for %s", reason, extra={"job_id": job.id})
        return reason

    def release(self, job_id: str) -> None:
        """Free the space that was reserved for a job."""
        self._reserved.pop(job_id, None)

    async def _check(self, job: Job) -> tuple[_Reservation | None, str | None]:
        """Check the file systems in a thread; neither is known if they do not answer.

        A network share that is away may block a thread for hours, so no second one is started.
        """
        key = (Path(job.source).parent, Path(job.sink).parent)
        if (last := self._checks.get(key)) is not None and not last.done():
            return None, None
        others = [one for name, one in self._reserved.items() if name != job.id]
        work = asyncio.to_thread(_check_space, job, others, self._free)
        check = self._checks[key] = asyncio.create_task(work, name=f"space for {job.id}")
        await asyncio.wait({check}, timeout=self._answer_seconds)
        if not check.done():
            return None, None
        del self._checks[key]
        with Fence("job", job.id):
            return check.result()
        return _Reservation(None, 0, Path(job.sink)), None  # the job will report it


@dataclass(frozen=True, slots=True)
class _Reservation:
    """Space that is reserved on a file system."""

    device: int | None
    num_bytes: int
    partial: Path

    @property
    def missing_bytes(self) -> int:
        """What is still to be written."""
        try:
            return max(0, self.num_bytes - self.partial.stat().st_size)
        except OSError:
            return self.num_bytes


def _check_space(
    job: Job, others: Iterable[_Reservation], free: Callable[[Path], int | None]
) -> tuple[_Reservation, str | None]:
    """Return the space that a job wants, and what is missing of it; None if it is there."""
    sink = Path(job.sink)
    device = device_of(sink.parent)
    wanted = _Reservation(device, expected_bytes(job), partial_path(sink, partial_token(job.id)))
    if (left := free(sink.parent)) is None:
        return wanted, None
    left -= sum(other.missing_bytes for other in others if other.device == device)
    text = f"about {size_text(wanted.num_bytes)} are wanted, {size_text(max(0, left))} are free"
    return wanted, None if wanted.num_bytes <= left else text


_LOOK_AT = 16
"""Jobs at the head of the queue; for those behind, space is checked when they are claimed."""


class JobAdmission:
    """Claims jobs in the queue's order, but for those whose target has no space for them yet.

    Those stay queued, with the reason. What a claimed job needs is reserved until it is released.
    """

    def __init__(self, queue: JobQueue, space: DiskSpace) -> None:
        self._queue = queue
        self.space = space
        self._claiming = asyncio.Lock()

    async def claim(self) -> Job | None:
        """Begin an attempt of the first job that is due and has space; None if there is none."""
        async with self._claiming:
            for job in await self._due():
                if (reason := await self.space.reserve(job)) is not None:
                    with suppress(UnknownJob):  # it ended and was forgotten meanwhile
                        await self._queue.update(job.id, waits_for=reason, not_before=self._later())
                elif (claimed := await self._queue.claim(limit_ids=[job.id])) is not None:
                    return claimed
                else:  # cancelled meanwhile
                    self.space.release(job.id)
            job = await self._queue.claim()
            if job is None or (reason := await self.space.reserve(job)) is None:
                return job
            uncounted = job.attempts - 1
            await self._queue.change(
                job.id, "queued", attempts=uncounted, waits_for=reason, not_before=self._later()
            )
            return None

    async def _due(self) -> list[Job]:
        if self._queue.paused:
            return []
        now = datetime.now(UTC)
        jobs = await self._queue.jobs({"queued"}, _LOOK_AT)
        return [job for job in jobs if job.not_before is None or job.not_before <= now]

    def _later(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.space.look_seconds)


Check = Callable[[Job, AccessLimits | None], Awaitable[JobError | None]]


class EarlyChecks:
    """Checks jobs of MQTT and watched folders as they are queued; what can only fail fails at once.

    What cannot be checked now is checked by its attempt. Jobs of `upframe jobs submit` are checked
    before they are accepted.

    Args:
        queue: of the jobs.
        check: returns why a job can only fail.
        config: returns the present limits.
        pause_seconds: before each check. An idle worker takes the job meanwhile, and its attempt
            checks it; and where many short jobs come, checks take little from the workers.
    """

    def __init__(
        self,
        queue: JobQueue,
        check: Check,
        config: Callable[[], JobsConfig],
        *,
        pause_seconds: float = 1.0,
    ) -> None:
        self._pause_seconds = pause_seconds
        self._queue = queue
        self._check = check
        self._config = config

    async def run(self) -> None:
        """Check what is queued from now on, until cancelled."""
        with self._queue.subscribe() as changes:
            async for change in changes:
                if change.kind == "state" and _waits_unchecked(change.job):
                    await asyncio.sleep(self._pause_seconds)
                    with Fence("job", change.job.id), about_job(change.job.id):
                        await self._look_at(change.job.id)

    async def _look_at(self, job_id: str) -> None:
        with suppress(IllegalChange, UnknownJob, StoreBroken):  # its attempt checks it again
            job = await self._queue.get(job_id)
            if self._queue.paused or not _waits_unchecked(job):
                return
            error = await self._check(job, AccessLimits.of(job, self._config()))
            if error is not None:
                await self._queue.change(job_id, "failed", expected=("queued",), error=error)
                log.error("failed before its turn: %s", error.message)


def _waits_unchecked(job: Job) -> bool:
    begun = job.attempts or job.not_before or job.waits_for
    return job.state == "queued" and job.origin != "cli" and not begun
