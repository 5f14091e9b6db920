"""A job on several devices: the worker's own processes make the segments, and end with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.jobs.work import children_of, config_of, eventually, is_alive, work_of
from support.media.clips import make_clip
from support.media.sinks import decoded_frames

from upframe.daemon.jobs.model import Confinement
from upframe.daemon.workers.messages import Event, JobDone, JobStopped, Progressed
from upframe.daemon.workers.process import WorkerProcess
from upframe.daemon.workers.scheduler import worker_settings
from upframe.io.root import Identity, Root

BUDGETS = {"loading": 60.0, "streaming": 60.0, "publishing": 60.0}


def with_worker(tmp_path: Path, use: Callable[[WorkerProcess], Awaitable[None]]) -> None:
    config = config_of(tmp_path / "state", devices=("cpu*2",))

    async def main() -> None:
        worker = WorkerProcess(worker_settings(config)[0])
        try:
            await worker.start(60)
            await use(worker)
        finally:
            await worker.kill()

    asyncio.run(main())
    assert children_of(os.getpid()) == set()


@pytest.mark.parametrize("confined", [False, True])
def test_a_job_is_made_by_several_processes_also_beneath_a_root(
    tmp_path: Path, confined: bool
) -> None:
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    film = make_clip(root / "film.mkv", frames=64, options={"g": "8"})
    to = Confinement(source=Root(root), sink=Root(root), accepted=Identity.of(film.stat()))
    seen: set[int] = set()

    async def use(worker: WorkerProcess) -> None:
        def look(event: Event) -> None:
            assert worker.pid is not None
            if isinstance(event, Progressed) and event.frames_out:
                seen.update(children_of(worker.pid))

        work = work_of(film, root / "out" / "out.mkv", segment_frames=8)
        done = await worker.run_job("a", work, BUDGETS, look, to if confined else None)
        assert isinstance(done, JobDone), done
        assert done.report["frames_out"] == 127

    with_worker(tmp_path, use)
    assert len(seen) == 2
    assert len(decoded_frames(root / "out" / "out.mkv")) == 127
    assert [path.name for path in (root / "out").iterdir()] == ["out.mkv"]


def test_a_job_that_is_cancelled_ends_its_processes(tmp_path: Path) -> None:
    film = make_clip(tmp_path / "film.mkv", frames=400, width=320, height=240, options={"g": "8"})

    async def use(worker: WorkerProcess) -> None:
        flowing = asyncio.Event()

        def look(event: Event) -> None:
            if isinstance(event, Progressed) and event.frames_out:
                flowing.set()

        work = work_of(film, tmp_path / "out.mkv", segment_frames=8)
        task = asyncio.create_task(worker.run_job("a", work, BUDGETS, look), name="job")
        async with asyncio.timeout(60):
            await flowing.wait()
        assert worker.pid is not None
        processes = children_of(worker.pid)
        assert len(processes) == 2
        await worker.cancel()
        assert isinstance(await task, JobStopped)
        assert worker.alive
        await eventually(lambda: not any(map(is_alive, processes)))

    with_worker(tmp_path, use)
    assert not (tmp_path / "out.mkv").exists()
