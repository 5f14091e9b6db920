"""What the tests of running jobs share: a real store and queue, small clips, files looked for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from upframe.daemon.config import Config
from upframe.daemon.jobs.model import Job, job_of
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import STORE_NAME, JobStore
from upframe.daemon.specification import ConversionSpec
from upframe.daemon.workers.scheduler import Scheduler

INTERPOLATE = {"enable_frame_interpolation": True, "frame_interpolation_exp": 1}
ENDLESS = {"enable_frame_interpolation": True, "frame_interpolation_exp": 6}
"""64 frames for each: with a clip of 40, more work than any test waits for."""
FAST = {"codec": "libx264", "preset": "ultrafast"}


def config_of(state_dir: Path, **jobs: Any) -> Config:
    given = {"devices": ("cpu",), "precision": "fp32", "retry_delays": (0.05,), **jobs}
    return Config.model_validate({"state_dir": state_dir, "weights": "builtin", "jobs": given})


def work_of(source: Path | str, sink: Path, **fields: Any) -> ConversionSpec:
    given = {"filters": INTERPOLATE, "encoder": FAST, **fields}
    return ConversionSpec.model_validate({"source": str(source), "sink": str(sink), **given})


def new_job(job_id: str, source: Path | str, sink: Path, **fields: Any) -> Job:
    return job_of(work_of(source, sink, **fields), id=job_id, origin="cli")


def store_path(state_dir: Path) -> Path:
    state_dir.mkdir(parents=True, exist_ok=True)
    return state_dir / STORE_NAME


@asynccontextmanager
async def opened_queue(state_dir: Path) -> AsyncIterator[JobQueue]:
    with JobStore(store_path(state_dir)) as store:
        queue = JobQueue(store)
        try:
            yield queue
        finally:
            await queue.close()


@dataclass(frozen=True)
class Running:
    """A scheduler at work."""

    queue: JobQueue
    scheduler: Scheduler
    task: asyncio.Task[None]

    async def ended(self, job_id: str, seconds: float = 60) -> Job:
        return await until(self.queue, job_id, lambda job: job.ended_for_good, seconds)

    async def streaming(self, job_id: str, frames: int = 1, seconds: float = 60) -> Job:
        def streams(job: Job) -> bool:
            assert not job.ended_for_good, job
            return job.progress.frames >= frames

        return await until(self.queue, job_id, streams, seconds)

    @property
    def pid(self) -> int:
        (worker,) = self.scheduler.workers()
        assert worker.pid is not None
        return worker.pid


@asynccontextmanager
async def running(config: Config, **scheduler: Any) -> AsyncIterator[Running]:
    """A scheduler on a store of its own; at the end no process of it is left, not even a zombie."""
    before = children_of(os.getpid())
    async with opened_queue(config.state_dir) as queue:
        made = Scheduler(queue, config, **scheduler)
        task = asyncio.create_task(made.run(), name="scheduler")
        try:
            yield Running(queue, made, task)
        finally:
            task.cancel()
            await asyncio.wait({task})
            assert children_of(os.getpid()) == before


async def until(
    queue: JobQueue, job_id: str, holds: Callable[[Job], bool], seconds: float = 60
) -> Job:
    ends = time.monotonic() + seconds
    while not holds(job := await queue.get(job_id)):
        assert time.monotonic() < ends, job
        await asyncio.sleep(0.01)
    return job


async def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it never came true"
        await asyncio.sleep(0.01)


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def children_of(pid: int) -> set[int]:
    """All children of a process, zombies too."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            found |= {int(word) for word in (task / "children").read_text().split()}
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while it is read
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
