"""A real worker process: asked, cancelled, stopped, killed, hung, and never left behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.jobs.work import (
    ENDLESS,
    INTERPOLATE,
    children_of,
    config_of,
    eventually,
    frames_in,
    is_alive,
    names_in,
    work_of,
)
from support.media.clips import make_clip

from upframe.daemon.workers.messages import (
    Event,
    JobDone,
    JobStopped,
    Progressed,
    RequestFailed,
    Warm,
    Warmed,
)
from upframe.daemon.workers.process import CANCEL_SECONDS, WorkerDied, WorkerLost, WorkerProcess
from upframe.daemon.workers.scheduler import worker_settings
from upframe.filters.options import FilterOptions

BUDGETS = {"loading": 60.0, "streaming": 60.0, "publishing": 60.0}
LONG = 40


def with_worker(tmp_path: Path, use: Callable[[WorkerProcess], Awaitable[None]]) -> None:
    """Start a worker, use it, end it, and see that no process is left."""
    before = children_of(os.getpid())

    async def main() -> None:
        worker = WorkerProcess(worker_settings(config_of(tmp_path / "state"))[0])
        try:
            await worker.start(60)
            await use(worker)
        finally:
            await worker.kill()
        assert not worker.alive

    asyncio.run(main())
    assert children_of(os.getpid()) == before


def ignore(_: Event) -> None:
    pass


async def begun(worker: WorkerProcess, source: Path, sink: Path) -> asyncio.Task[object]:
    """A job that has begun to stream."""
    flowing = asyncio.Event()

    def look(event: Event) -> None:
        if isinstance(event, Progressed) and event.frames_out:
            flowing.set()

    job = worker.run_job("a", work_of(source, sink, filters=ENDLESS), BUDGETS, look)
    task = asyncio.create_task(job, name="job")
    async with asyncio.timeout(60):
        await flowing.wait()
    return task


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_worker_does_one_job_after_the_other_and_outlives_bad_ones(
    tmp_path: Path, out: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=4)
    (tmp_path / "text.mp4").write_text("no film")

    async def use(worker: WorkerProcess) -> None:
        assert worker.device == "cpu"
        asked = Warm(filters=FilterOptions.model_validate(INTERPOLATE))
        assert (await worker.ask(asked, 60, Warmed)).seconds > 0
        events: list[Event] = []
        done = await worker.run_job("a", work_of(clip, out / "a.mp4"), BUDGETS, events.append)
        assert isinstance(done, JobDone)
        assert done.report["frames_out"] == frames_in(out / "a.mp4") == 7
        stages = dict.fromkeys(one.stage for one in events if isinstance(one, Progressed))
        assert list(stages) == ["loading", "streaming", "publishing"]
        again = await worker.run_job("b", work_of(clip, out / "a.mp4"), BUDGETS, ignore)
        assert isinstance(again, RequestFailed)
        assert (again.error.code, again.error.retryable) == (73, False)
        bad = work_of(tmp_path / "text.mp4", out / "c.mp4")
        failed = await worker.run_job("c", bad, BUDGETS, ignore)
        assert isinstance(failed, RequestFailed)
        assert failed.error.code == 65
        pid = worker.pid
        last = await worker.run_job("d", work_of(clip, out / "d.mp4"), BUDGETS, ignore)
        assert isinstance(last, JobDone)
        assert (worker.pid, worker.num_jobs) == (pid, 4)
        assert worker.rss_bytes > 50 << 20
        await worker.stop()

    with_worker(tmp_path, use)
    assert names_in(out) == {"a.mp4", "d.mp4"}


def test_cancelling_stops_a_job_in_five_seconds_leaves_nothing_and_keeps_the_worker(
    tmp_path: Path, out: Path
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=LONG)

    async def use(worker: WorkerProcess) -> None:
        job = await begun(worker, clip, out / "a.mp4")
        assert names_in(out) != set()
        began = time.monotonic()
        await worker.cancel()
        assert time.monotonic() - began < 5
        assert await job == JobStopped()
        assert names_in(out) == set()
        await worker.cancel()  # nothing runs
        short = work_of(make_clip(tmp_path / "short.mp4", frames=3), out / "b.mp4")
        assert isinstance(await worker.run_job("b", short, BUDGETS, ignore), JobDone)

    with_worker(tmp_path, use)


def test_of_the_five_seconds_that_a_cancelled_job_has_one_is_left_for_the_kill() -> None:
    assert CANCEL_SECONDS <= 4
    assert inspect.signature(WorkerProcess.cancel).parameters["seconds"].default == CANCEL_SECONDS


def test_a_worker_that_does_not_stop_is_killed_in_time(tmp_path: Path, out: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=LONG)

    async def use(worker: WorkerProcess) -> None:
        job = await begun(worker, clip, out / "a.mp4")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        await worker.cancel(0.5)
        lost = await job
        assert isinstance(lost, WorkerDied)
        assert lost.error.message == "the worker process was killed: it did not stop within 0.5 s"
        assert not worker.alive

    with_worker(tmp_path, use)


def test_a_worker_that_is_not_needed_any_more_does_not_finish_its_start(tmp_path: Path) -> None:
    before = children_of(os.getpid())

    async def main(when: Callable[[WorkerProcess], bool]) -> None:
        worker = WorkerProcess(worker_settings(config_of(tmp_path / "state"))[0])
        starting = asyncio.create_task(worker.start(60))
        await asyncio.sleep(0)
        await eventually(lambda: when(worker))
        await worker.cancel(0.05)
        with pytest.raises(WorkerLost, match=r"was killed: it did not stop within 0\.05 s"):
            await starting

    asyncio.run(main(lambda worker: True))
    asyncio.run(main(lambda worker: worker.alive))
    assert children_of(os.getpid()) == before


def test_the_death_of_a_worker_is_told_with_its_signal(tmp_path: Path, out: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=LONG)

    async def use(worker: WorkerProcess) -> None:
        job = await begun(worker, clip, out / "a.mp4")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSEGV)
        lost = await job
        assert isinstance(lost, WorkerDied)
        assert lost.error.message == "the worker process was ended by SIGSEGV"
        assert (lost.error.code, lost.error.retryable) == (70, True)
        assert worker.crashed
        asked = await worker.run_job("b", work_of(clip, out / "b.mp4"), BUDGETS, ignore)
        assert isinstance(asked, WorkerDied)  # at once: nobody is there

    with_worker(tmp_path, use)


def test_two_workers_do_not_share_a_lock_and_one_that_dies_idle_is_reaped(tmp_path: Path) -> None:
    async def use(worker: WorkerProcess) -> None:
        second = WorkerProcess(worker.settings)
        with pytest.raises(WorkerLost, match="ended with status 75") as lost:
            await second.start(60)
        assert "0.lock is held by another process" in (lost.value.error.detail or "")
        assert not second.alive
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await eventually(lambda: not worker.alive)
        assert not is_alive(worker.pid)  # no zombie, though nobody asked

    with_worker(tmp_path, use)


def test_a_worker_knows_nothing_of_the_daemons_own_affairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/y")

    async def use(worker: WorkerProcess) -> None:
        text = await asyncio.to_thread(Path(f"/proc/{worker.pid}/environ").read_text)
        assert "NOTIFY_SOCKET" not in text
        assert "CREDENTIALS_DIRECTORY" not in text
        assert os.getsid(worker.pid or 0) == worker.pid

    with_worker(tmp_path, use)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "pass=1"}),
        ("libx264", {"x264-params": "dump-yuv=relative.yuv"}),
        ("libx264", {"stats": "relative.log", "flags": "+pass1"}),
        ("libx265", {"x265-params": "csv=relative.csv:csv-log-level=2"}),
    ],
)
def test_an_encoder_that_writes_by_a_relative_name_leaves_nothing(
    codec: str, options: dict[str, str], tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such options are refused in requests; a watched folder's owner may set what he wants."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    encoder = {"codec": codec, "preset": "ultrafast", "options": options}
    work = work_of(make_clip(tmp_path / "a.mkv", frames=3), out / "a.mkv", encoder=encoder)

    async def use(worker: WorkerProcess) -> None:
        await worker.run_job("a", work, BUDGETS, ignore)

    with_worker(tmp_path, use)
    assert list(here.rglob("*")) == []
    assert not [path for path in tmp_path.rglob("*") if "2pass" in path.name or "rel" in path.name]
