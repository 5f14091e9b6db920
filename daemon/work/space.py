"""Room on the targets' file systems: a job begins only where what it will write fits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...io.files import partial_path
from ...io.redaction import redacted
from ..jobs.model import Job, partial_token
from .estimate import expected_bytes, free_bytes

log = logging.getLogger("upframe.work")

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
        return look.result()


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
