"""Room on the targets' file systems: a job begins only where what it will write fits."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ...filters.options import FilterOptions
from ...io.files import partial_path
from ...io.redaction import redacted
from ..fence import Fence
from ..jobs.model import Job, UnknownJob, Work, partial_token
from ..jobs.queue import JobQueue

log = logging.getLogger("upframe.work")


# How much a job will write, by a rule of thumb, and how much room there is. Everything blocks.

_MARGIN_BYTES = 64 << 20
_PIXELS_POWER = 0.75
"""Bit rate at equal quality grows with the 0.75th power of the pixels in a frame."""
_RATE_POWER = 0.5
"""And about with the root of the frames in a second: in-betweens are cheap to predict."""


def expected_bytes(work: Work) -> int:
    """Estimate what a job will write, from the size of its source.

    A source whose size is not known counts as nothing.
    """
    return round(source_bytes(work.source) * growth(work.filters)) + _MARGIN_BYTES


def growth(filters: FilterOptions) -> float:
    """Estimate how many times larger a file becomes."""
    factor = 1.0
    if filters.enable_upscaling:
        factor *= (filters.upscaling_scale**2) ** _PIXELS_POWER
    if filters.enable_frame_interpolation:
        factor *= (2**filters.frame_interpolation_exp) ** _RATE_POWER
    return factor


def source_bytes(source: str) -> int:
    """Tell the size of a file, or of all files of a numbered sequence; 0 for anything else."""
    path = Path(source)
    try:
        if path.is_file():
            return path.stat().st_size
        start, percent, _ = path.name.partition("%")
        if not percent or "://" in source:
            return 0
        with os.scandir(path.parent) as entries:
            alike = (entry for entry in entries if entry.name.startswith(start))
            return sum(entry.stat().st_size for entry in alike if entry.name.endswith(path.suffix))
    except OSError:  # the job itself will say what is wrong with its source
        return 0


def free_bytes(folder: Path) -> int | None:
    """Tell the room that is left for us on a folder's file system; None where nobody knows."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


_REASONS = ("an answer", "room")
"""With which the reasons to wait begin."""


class Room:
    """Gives out room: what one running job will still write is no room for another.

    Args:
        free: tells the bytes that are free on a folder's file system; may block.
        look_seconds: after which a job that waits looks again.
        answer_seconds: that a file system gets to say how much room there is.
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
        self._taken: dict[str, _Taken] = {}
        self._looks: dict[tuple[Path, Path], asyncio.Task[_Look]] = {}

    async def take(self, job: Job) -> str | None:
        """Set room aside for a job. For one caller at a time.

        Returns:
            Why it must wait; None if it may begin.
        """
        look = await self._look(job)
        if look is not None and look.suffices:
            self._taken[job.id] = look.wanted
            return None
        if look is None:
            reason = f"{_REASONS[0]} of the file systems of {job.source} and {job.sink}"
        else:
            reason = f"{_REASONS[1]} in {Path(job.sink).parent}: {look}"
        reason = redacted(reason)
        if not (job.waits_for or "").startswith(_REASONS):  # once, not at every look
            log.warning("waits for %s", reason, extra={"job_id": job.id})
        return reason

    def give_up(self, job_id: str) -> None:
        """Let others have what a job has not used."""
        self._taken.pop(job_id, None)

    async def _look(self, job: Job) -> _Look | None:
        """Look at the file systems, in a thread; None if they do not answer.

        A share that is away may hold a thread for hours, so no second one is sent after it.
        """
        key = (Path(job.source).parent, Path(job.sink).parent)
        if (last := self._looks.get(key)) is not None and not last.done():
            return None
        others = [taken for name, taken in self._taken.items() if name != job.id]
        work = asyncio.to_thread(_looked, job, others, self._free)
        look = self._looks[key] = asyncio.create_task(work, name=f"room for {job.id}")
        await asyncio.wait({look}, timeout=self._answer_seconds)
        if not look.done():
            return None
        del self._looks[key]
        with Fence("job", job.id):
            return look.result()
        return _Look(_Taken(None, 0, Path(job.sink)), None)  # the job will say what is wrong


@dataclass(frozen=True, slots=True)
class _Taken:
    """Room set aside on a file system."""

    device: int | None
    num_bytes: int
    partial: Path

    @property
    def still_bytes(self) -> int:
        """What will still be written."""
        try:
            return max(0, self.num_bytes - self.partial.stat().st_size)
        except OSError:
            return self.num_bytes


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found out about the room for a job."""

    wanted: _Taken
    left_bytes: int | None
    """Without what others will still write; None where nobody knows."""

    @property
    def suffices(self) -> bool:
        return self.left_bytes is None or self.wanted.num_bytes <= self.left_bytes

    def __str__(self) -> str:
        free = _size(max(0, self.left_bytes or 0))
        return f"about {_size(self.wanted.num_bytes)} are wanted, {free} are free"


def _looked(job: Job, others: Iterable[_Taken], free: Callable[[Path], int | None]) -> _Look:
    sink = Path(job.sink)
    try:
        device = sink.parent.stat().st_dev
    except OSError:  # the job itself will say what is wrong with its sink
        device = None
    wanted = _Taken(device, expected_bytes(job), partial_path(sink, partial_token(job.id)))
    left = free(sink.parent)
    if left is not None:
        left -= sum(taken.still_bytes for taken in others if taken.device == device)
    return _Look(wanted, left)


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


# Which job is next: the queue's order, but for those whose target has no room for them yet.

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
