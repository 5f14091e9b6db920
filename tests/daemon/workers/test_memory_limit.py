"""Workers and probers may take so much memory and no more; what needs more ends with code 75."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from support.jobs.daemon import SMALL, daemon_in
from support.jobs.work import config_of, work_of
from support.media.clips import make_clip

from upframe.daemon.jobs.model import job_of
from upframe.daemon.workers.messages import JobDone, RequestFailed
from upframe.daemon.workers.process import FileProber, WorkerDied, WorkerProcess, WorkerSettings
from upframe.daemon.workers.scheduler import worker_settings
from upframe.io.limits import VARIABLE

BUDGETS = {"loading": 60.0, "streaming": 60.0, "publishing": 60.0}
LARGER = {"enable_upscaling": True, "upscaling_scale": 8}


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that a worker can do with; a prober has a quarter of it."""
    monkeypatch.setenv(VARIABLE, json.dumps({"memory_mebibytes": 2048}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def still(path: Path, width: int, height: int) -> Path:
    """A picture of one colour, which costs nothing on disk."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    path.write_bytes(head + image + b"\x3b")
    return path


async def used(settings: WorkerSettings, use: Callable[[WorkerProcess], Awaitable[None]]) -> None:
    worker = WorkerProcess(settings)
    try:
        await worker.start(60)
        await use(worker)
    finally:
        await worker.kill()


@pytest.mark.parametrize(
    ("size", "filters"),
    [((2000, 2000), LARGER), ((16_000, 12_000), SMALL)],
    ids=["to be made", "to be read"],
)
def test_job_that_needs_more_than_the_worker_may_take_is_a_75_and_costs_no_worker(
    size: tuple[int, int], filters: dict[str, Any], tmp_path: Path
) -> None:
    large, clip = still(tmp_path / "large.gif", *size), make_clip(tmp_path / "in.mp4", frames=3)

    async def use(worker: WorkerProcess) -> None:
        pid = worker.pid
        work = work_of(large, tmp_path / "out.png", filters=filters, encoder={})
        failed = await worker.run_job("a", work, BUDGETS, lambda _: None)
        assert isinstance(failed, RequestFailed)
        assert (failed.error.code, failed.error.retryable) == (75, True), failed.error
        assert "memory" in failed.error.message
        assert failed.error.detail is None
        done = await worker.run_job("b", work_of(clip, tmp_path / "b.mp4"), BUDGETS, lambda _: None)
        assert isinstance(done, JobDone)
        assert worker.pid == pid

    asyncio.run(used(worker_settings(config_of(tmp_path / "state"))[0], use))
    assert not (tmp_path / "out.png").exists()


def test_file_that_needs_more_than_a_prober_may_take_is_refused(tmp_path: Path) -> None:
    large, clip = still(tmp_path / "a.gif", 16_000, 12_000), make_clip(tmp_path / "in.mp4")

    async def main() -> None:
        async with aclosing(FileProber(config_of(tmp_path / "state"))) as prober:
            assert (await prober.probe(clip)).kind == "video"
            pid = prober.pid
            verdict = await prober.probe(large)
            assert verdict.kind == "refused"
            assert "too large for memory" in verdict.message
            assert prober.pid == pid

    asyncio.run(main())


def test_a_job_is_checked_with_the_memory_of_its_attempt(tmp_path: Path) -> None:
    """Not with that of a probe, in which encoders fail without saying that it is the memory."""
    clip = make_clip(tmp_path / "in.mkv", frames=2, width=960, height=540)
    good, wrong = (
        job_of(work_of(clip, tmp_path / "out.mkv", filters=LARGER, encoder=encoder), **more)
        for encoder, more in (
            ({}, {"id": "good", "origin": "mqtt"}),
            ({"preset": "picture"}, {"id": "wrong", "origin": "mqtt"}),
        )
    )

    async def main() -> None:
        async with aclosing(FileProber(config_of(tmp_path / "state"))) as prober:
            assert await prober.check(good) is None
            assert await prober.check(wrong) is not None  # it was not lost over the first

    asyncio.run(main())


DYING = """
import os, sys
print('{"kind": "ready"}', flush=True)
sys.stdin.readline()
sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'")
sys.stderr.flush()
os.abort()
"""


class _Dying(WorkerSettings):
    """A worker in whose C++ a failed allocation is caught by nobody."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", DYING]


def test_worker_that_dies_of_a_failed_allocation_is_a_75(tmp_path: Path) -> None:
    async def use(worker: WorkerProcess) -> None:
        work = work_of(tmp_path / "in.mp4", tmp_path / "out.mp4")
        lost = await worker.run_job("a", work, BUDGETS, lambda _: None)
        assert isinstance(lost, WorkerDied)
        assert (lost.error.code, lost.error.retryable) == (75, True)
        assert lost.error.message.endswith("was ended by SIGABRT: too large for memory")

    asyncio.run(used(_Dying("a", tmp_path), use))


def test_limits_of_the_configuration_hold_for_jobs_which_are_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    clip = make_clip(tmp_path / "in.mp4", frames=3)
    with daemon_in(tmp_path, limits={"width": 32, "height": 32}) as daemon:
        daemon.submit(clip, tmp_path / "out.mp4", SMALL, "job")
        job = daemon.until_state("job", "failed")
    assert job.error is not None
    assert (job.error.code, job.attempts) == (75, 1)
    assert "got 64x48, the limit is 32x32 ([limits] width, height)" in job.error.message
