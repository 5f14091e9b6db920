"""How much room a job needs, and who gets it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from support.jobs.work import INTERPOLATE, eventually, new_job, work_of

from upframe.daemon.workers.admission import (
    DiskSpace,
    expected_bytes,
    free_bytes,
    growth,
    source_bytes,
)
from upframe.filters.options import FilterOptions

MARGIN = 64 << 20
LARGER = {"enable_upscaling": True, "upscaling_scale": 2}


@pytest.mark.parametrize(
    ("filters", "factor"),
    [(INTERPOLATE, 2**0.5), (LARGER, 4**0.75), (INTERPOLATE | LARGER, 4)],
)
def test_growth_is_that_of_pixels_and_rate(filters: dict[str, object], factor: float) -> None:
    assert growth(FilterOptions.model_validate(filters)) == pytest.approx(factor)


def test_the_size_of_a_source_is_that_of_all_its_files(tmp_path: Path) -> None:
    for name, size in (("frame_001.png", 10), ("frame_002.png", 20), ("other.png", 40)):
        (tmp_path / name).write_bytes(bytes(size))
    assert source_bytes(str(tmp_path / "other.png")) == 40
    assert source_bytes(str(tmp_path / "frame_%03d.png")) == 30
    assert source_bytes(str(tmp_path / "none.mp4")) == 0
    assert source_bytes("rtsp://host/%20stream") == 0


def test_a_job_waits_where_there_is_no_room_and_begins_when_there_is(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(bytes(1000))
    free = [MARGIN]
    job = new_job("a", source, tmp_path / "out.mp4")

    async def take() -> None:
        space = DiskSpace(lambda _: free[0])
        reason = await space.reserve(job)
        assert reason == f"room in {tmp_path}: about 64 MiB are wanted, 64 MiB are free"
        free[0] = expected_bytes(job)
        assert await space.reserve(job) is None

    asyncio.run(take())


def test_room_is_given_out_once_until_it_is_used_or_given_up(tmp_path: Path) -> None:
    jobs = [new_job(name, "/none.mp4", tmp_path / f"{name}.mp4") for name in "ab"]

    async def take() -> None:
        space = DiskSpace(lambda _: MARGIN + MARGIN // 2)
        assert await space.reserve(jobs[0]) is None
        assert await space.reserve(jobs[1]) is not None
        space.release(jobs[0].id)
        assert await space.reserve(jobs[1]) is None

    asyncio.run(take())


def test_where_nobody_knows_the_room_the_job_tries(tmp_path: Path) -> None:
    job = new_job("a", "/none.mp4", tmp_path / "none" / "out.mp4")
    assert free_bytes(tmp_path / "none") is None
    assert (free_bytes(tmp_path) or 0) > 0
    assert asyncio.run(DiskSpace().reserve(job)) is None
    assert expected_bytes(work_of("/none.mp4", tmp_path)) == MARGIN


def test_a_file_system_that_does_not_answer_holds_up_nobody_else(tmp_path: Path) -> None:
    """As a network share that is away: one thread waits for it, and no second one."""
    answers, asked = threading.Event(), list[Path]()
    for name in ("away", "here"):
        (tmp_path / name).mkdir()

    def free(folder: Path) -> int:
        asked.append(folder)
        if folder.name == "away":
            answers.wait(20)
        return 1 << 40

    async def take() -> None:
        space = DiskSpace(free, answer_seconds=0.1)
        away = [new_job(f"a{number}", "/in.mp4", tmp_path / "away" / "a.mp4") for number in "12"]
        for job in away:
            reason = await space.reserve(job)
            assert reason is not None
            assert reason.startswith("an answer of the file systems of /in.mp4 and ")
        assert len(asked) == 1
        assert await space.reserve(new_job("b", "/in.mp4", tmp_path / "here" / "b.mp4")) is None
        answers.set()
        await eventually(lambda: all(task.done() for task in asyncio.all_tasks() - {this()}))
        assert await space.reserve(away[1]) is None

    asyncio.run(take())


def this() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
