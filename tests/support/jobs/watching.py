"""A watched folder to try things in: real files, the real store and queue, a worker that copies."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upframe.daemon.config import Config
from upframe.daemon.jobs.model import Job, JobError, ProbeVerdict
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.watch.watcher import Watches
from upframe.io.root import Root

DOUBLE = {"enable_frame_interpolation": True, "frame_interpolation_exp": 1}
STABLE_SECONDS = 0.08
SCAN_SECONDS = 0.1


class Judging:
    """A prober that really looks, in this process."""

    def __init__(self) -> None:
        self.probed: list[Path] = []

    async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
        from upframe.daemon.workers.attempt import probe_file  # loads codecs, which few tests need

        self.probed.append(path)
        return await asyncio.to_thread(probe_file, str(path), root)


class Saying:
    """A prober that says what the file begins with: `refused`, `unfinished`, else video."""

    def __init__(self) -> None:
        self.probed: list[Path] = []

    async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
        self.probed.append(path)
        return _said_by(path)


def _said_by(path: Path) -> ProbeVerdict:
    text = path.read_bytes()[:10].decode(errors="replace").split("\n")[0]
    kind = text if text in ("refused", "unfinished") else "video"
    return ProbeVerdict(kind=kind, message=f"it says {text!r}")


@dataclass
class Yard:
    """The folders, and how they are watched."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for folder in (self.input, self.output, self.state):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def input(self) -> Path:
        return self.root / "in"

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def state(self) -> Path:
        return self.root / "state"

    def watch(self, **more: Any) -> dict[str, Any]:
        """The `[[watch]]` entry."""
        return {
            "input": self.input,
            "output": self.output,
            "filters": DOUBLE,
            "stable_seconds": STABLE_SECONDS,
            "scan_seconds": SCAN_SECONDS,
            **self.settings,
            **more,
        }

    def config(self, *watches: dict[str, Any]) -> Config:
        """The whole configuration; without arguments with the one watch."""
        entries = watches or (self.watch(),)
        return Config.model_validate({"state_dir": self.state, "watch": entries})

    def put(self, name: str, content: str | bytes = "video", folder: Path | None = None) -> Path:
        """Write a file into the watched folder in one go."""
        path = (folder or self.input) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


@dataclass
class House:
    """What runs while a yard is watched."""

    yard: Yard
    store: JobStore
    queue: JobQueue
    watches: Watches
    prober: Any

    async def jobs(self) -> list[Job]:
        """All jobs, the oldest first."""
        return sorted(await self.queue.jobs(), key=lambda job: job.created)

    async def job(self, count: int = 1) -> Job:
        """The only job, or the latest of `count`, as soon as it is there."""
        await eventually(self.has_jobs(count))
        jobs = await self.jobs()
        assert len(jobs) == count, [job.source for job in jobs]
        return jobs[-1]

    def has_jobs(self, count: int) -> Callable[[], bool]:
        return lambda: sum(self.store.counts().values()) >= count

    async def scans(self, count: int = 2) -> None:
        """Wait until every folder was scanned some more times, and files could have held still."""
        await self._more_scans(1)
        await asyncio.sleep(1.5 * STABLE_SECONDS)
        await self._more_scans(count - 1)

    async def _more_scans(self, count: int) -> None:
        before = [status["scans"] for status in self.watches.status()]
        await eventually(
            lambda: all(
                status["scans"] >= scans + count
                for scans, status in zip(before, self.watches.status(), strict=True)
            )
        )

    async def work(self, *, fail: Sequence[str] = (), code: int = 65) -> Job | None:
        """Do the next job: copy its source to its sink, or fail if its name is given."""
        job = await self.queue.claim()
        if job is None:
            return None
        if Path(job.source).name in fail:
            error = JobError(code=code, message="as asked for", retryable=False)
            return await self.queue.change(job.id, "failed", error=error)
        _convert(job)
        return await self.queue.change(job.id, "done", report={"frames_in": 2})

    async def settled(self, job: Job | None) -> None:
        """Wait until a job's end has been dealt with."""
        assert job is not None
        await eventually(lambda: self.store.seen_verdict(f"settled {job.id}") is not None)


def _convert(job: Job) -> None:
    assert job.overwrite or not Path(job.sink).exists(), f"{job.sink} is there"
    shutil.copyfile(job.source, job.sink)


@asynccontextmanager
async def watching(
    yard: Yard,
    *watches: dict[str, Any],
    prober: Any = None,
    filesystem: Callable[[Path], str] | None = None,
    config: Config | None = None,
) -> AsyncGenerator[House]:
    """Watch as the daemon does, until the block ends."""
    with JobStore(yard.state / "jobs.sqlite") as store:
        queue = JobQueue(store)
        prober = prober or Saying()
        more = {} if filesystem is None else {"filesystem": filesystem}
        made = Watches(config or yard.config(*watches), queue, store, prober.probe, **more)
        task = asyncio.create_task(made.run(), name="watches")
        try:
            yield House(yard, store, queue, made, prober)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await queue.close()


async def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
