"""Whether the target of a job has room for what the job will write, by a rule of thumb."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...filters.options import FilterOptions
from ...io.files import partial_path
from ..jobs.model import Job, Work, partial_token

log = logging.getLogger("upframe.work")

_MARGIN_BYTES = 64 << 20
_PIXELS_POWER = 0.75
"""Bit rate at equal quality grows with the 0.75th power of the pixels in a frame."""
_RATE_POWER = 0.5
"""And about with the root of the frames in a second: in-betweens are cheap to predict."""


def free_bytes(folder: Path) -> int | None:
    """Tell the room that is left for us on a folder's file system; None where nobody knows."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


class Room:
    """Gives out room: what one running job will still write is no room for another.

    Args:
        free: tells the bytes that are free on a folder's file system.
        look_seconds: after which a job that waits looks again.
    """

    def __init__(
        self, free: Callable[[Path], int | None] = free_bytes, *, look_seconds: float = 30.0
    ) -> None:
        self.look_seconds = look_seconds
        self._free = free
        self._taken: dict[str, _Taken] = {}
        self._told: set[str] = set()
        self._looking = asyncio.Lock()

    async def take(self, job: Job) -> str | None:
        """Set room aside for a job.

        Returns:
            Why it must wait; None if it may begin.
        """
        async with self._looking:
            wanted = await asyncio.to_thread(_wanted, job)
            others = [taken for taken in self._taken.values() if taken.device == wanted.device]
            free = await asyncio.to_thread(self._left, Path(job.sink).parent, others)
            if free is None or wanted.num_bytes <= free:
                self._taken[job.id] = wanted
                self._told.discard(job.id)
                return None
        text = f"room in {Path(job.sink).parent}: about {_size(wanted.num_bytes)} are wanted, "
        text += f"{_size(max(0, free))} are free"
        if job.id not in self._told:
            self._told.add(job.id)
            log.warning("waits for %s", text)
        return text

    def give_up(self, job_id: str) -> None:
        """Let others have what a job has not used."""
        self._taken.pop(job_id, None)

    def _left(self, folder: Path, others: Iterable[_Taken]) -> int | None:
        free = self._free(folder)
        return None if free is None else free - sum(taken.still_bytes for taken in others)


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


def _wanted(job: Job) -> _Taken:
    sink = Path(job.sink)
    try:
        device = sink.parent.stat().st_dev
    except OSError:  # the job itself will say what is wrong with its sink
        device = None
    return _Taken(device, expected_bytes(job), partial_path(sink, partial_token(job.id)))


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def expected_bytes(work: Work) -> int:
    """Estimate what a job will write, from the size of its source; blocks.

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
