"""A retry of a watched file: it is where it belongs, and done as the folder says today."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.jobs.watching import DOUBLE, House, Yard, eventually, watching

from upframe.daemon.errors import IllegalChange
from upframe.daemon.jobs.model import Job


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def moving(yard: Yard, **more: object) -> dict[str, object]:
    return yard.watch(on_failed="move", failed_dir=yard.root / "failed", **more)


async def failed(house: House) -> Job:
    job = await house.job()
    await house.settled(await house.work(fail=[Path(job.source).name]))
    return job


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("all_at_once", [True, False])
def test_a_file_that_was_moved_is_moved_back_and_done(yard: Yard, all_at_once: bool) -> None:
    yard.put("sub/film.mkv", "ours")
    yard.put("sub/film.mkv", "an earlier one", yard.root / "failed")

    async def run() -> None:
        async with watching(yard, moving(yard)) as house:
            job = await failed(house)
            assert files_in(yard.input) == []
            assert "sub/film-1.mkv" in files_in(yard.root / "failed")
            if all_at_once:
                assert [one.id for one in await house.queue.retry_failed()] == [job.id]
            else:
                await house.queue.retry(job.id)
            await house.settled(await house.work())
            await house.scans()
            assert [one.state for one in await house.jobs()] == ["done"]

    asyncio.run(run())
    assert files_in(yard.input) == files_in(yard.output) == ["sub/film.mkv"]
    assert (yard.output / "sub/film.mkv").read_text() == "ours"
    assert files_in(yard.root / "failed") == ["sub/film.mkv"]


def test_a_file_that_was_repaired_where_it_was_moved_is_taken_as_it_is(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard, moving(yard)) as house:
            job = await failed(house)
            (yard.root / "failed/film.mkv").write_text("repaired")
            await house.queue.retry(job.id)
            await house.settled(await house.work())
            await house.scans()
            assert [one.state for one in await house.jobs()] == ["done"]

    asyncio.run(run())
    assert (yard.output / "film.mkv").read_text() == "repaired"


def test_a_file_that_the_user_has_put_back_is_not_replaced(yard: Yard) -> None:
    yard.put("film.mkv")
    watch = moving(yard, scan_seconds=1000, mode="poll")

    async def run() -> None:
        async with watching(yard, watch) as house:
            job = await failed(house)
            yard.put("film.mkv", "another")
            await house.queue.retry(job.id)
            await house.settled(await house.work())

    asyncio.run(run())
    assert (yard.input / "film.mkv").read_text() == "another"
    assert "film.mkv" in files_in(yard.root / "failed")


def test_a_file_that_is_nowhere_is_not_queued(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard, moving(yard)) as house:
            job = await failed(house)
            (yard.root / "failed/film.mkv").unlink()
            with pytest.raises(IllegalChange, match=r"film\.mkv: No such file"):
                await house.queue.retry(job.id)
            assert await house.queue.retry_failed() == []
            assert house.store.get(job.id).state == "failed"

    asyncio.run(run())


@pytest.mark.parametrize("on_failed", ["leave", "move"])
def test_a_retry_takes_the_present_options(yard: Yard, on_failed: str) -> None:
    yard.put("film.mkv")
    more = {"on_failed": on_failed, "failed_dir": yard.root / "failed"}
    today = {"filters": DOUBLE | {"frame_interpolation_exp": 2}, "container": "mp4", "priority": 7}

    async def run() -> None:
        async with watching(yard, yard.watch(**more)) as house:
            job = await failed(house)
        async with watching(yard, yard.watch(**more, **today, stable_seconds=1000)) as house:
            await house.watches.looked()
            again = await house.queue.retry(job.id)
            assert (again.id, again.state, again.attempts) == (job.id, "queued", 0)
            assert again.filters.frame_interpolation_exp == 2
            assert (again.sink, again.priority) == (str(yard.output / "film.mp4"), 7)
            await house.settled(await house.work())
        async with watching(yard, yard.watch(**more, **today)) as house:
            await house.scans(3)  # it is the job of this file under these options
            assert [one.state for one in await house.jobs()] == ["done"]

    asyncio.run(run())
    assert files_in(yard.output) == ["film.mp4"]


def test_a_retry_replaces_no_file_that_is_there_by_now(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await failed(house)
            yard.put("film.mkv", "somebody's", yard.output)
            with pytest.raises(IllegalChange, match="exists already"):
                await house.queue.retry(job.id)

    asyncio.run(run())


def test_the_failed_job_of_an_older_version_is_not_done_again(yard: Yard) -> None:
    path = yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await failed(house)
            path.write_text("another")
            newer = await house.job(count=2)
            with pytest.raises(IllegalChange, match=f"that of job {newer.id} by now"):
                await house.queue.retry(job.id)
            await house.settled(await house.work())
            assert await house.queue.retry_failed() == []

    asyncio.run(run())


def test_a_job_of_no_folder_any_more_is_retried_as_it_is(yard: Yard) -> None:
    yard.put("film.mkv")
    elsewhere = yard.root / "elsewhere"
    elsewhere.mkdir()

    async def run() -> None:
        async with watching(yard) as house:
            job = await failed(house)
        async with watching(yard, yard.watch(input=elsewhere)) as house:
            again = await house.queue.retry(job.id)
            assert (again.state, again.sink) == ("queued", job.sink)

    asyncio.run(run())


def test_while_a_folder_is_away_its_jobs_are_not_retried(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await failed(house)
            yard.input.rename(yard.root / "away")
            await eventually(lambda: house.watches.status()[0]["state"] == "paused")
            with pytest.raises(IllegalChange, match="is not available"):
                await house.queue.retry(job.id)

    asyncio.run(run())
