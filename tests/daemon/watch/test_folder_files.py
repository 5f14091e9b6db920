"""What is told of the files of a folder: those that wait, failed or were skipped, and why."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from support.jobs.watching import House, Yard, eventually, watching

from upframe.daemon.config import WatchConfig


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


async def listed(house: House) -> dict[str, tuple[str, str, str]]:
    """State, reason and detail of each file of the only folder, by its name."""
    (files,) = await house.watches.files()
    return {
        Path(file["path"]).name: (file["state"], file["reason"], file["detail"]) for file in files
    }


def test_every_file_that_is_no_job_is_listed_with_its_reason(yard: Yard) -> None:
    for name in ("waits.mkv", "fails.mkv", "cancelled.mkv", "notes.txt", "there.mkv", "done.mkv"):
        yard.put(name, "unfinished" if name == "waits.mkv" else "video")
    yard.put("there.mkv", "somebody's", yard.output)

    async def run() -> None:
        async with watching(yard) as house:
            await eventually(house.has_jobs(3))
            for job in await house.jobs():
                if job.source.endswith("cancelled.mkv"):
                    await house.queue.cancel(job.id)
            for _ in range(2):
                await house.settled(await house.work(fail=["fails.mkv"]))
            await house.scans()
            before = await listed(house)
            assert {name: file[:2] for name, file in before.items()} == {
                "waits.mkv": ("waiting", "unfinished"),
                "fails.mkv": ("failed", "failed_before"),
                "cancelled.mkv": ("skipped", "cancelled_before"),
                "notes.txt": ("skipped", "excluded"),
                "there.mkv": ("skipped", "exists"),
            }
            assert "it says 'unfinished'" in before["waits.mkv"][2]
            assert before["fails.mkv"][2].startswith("as asked for; ")
            assert "upframe jobs retry fails-" in before["fails.mkv"][2]
        async with watching(yard) as house:  # and the same after a restart
            await house.scans()
            after = await listed(house)
            assert {name: file[:2] for name, file in after.items()} == {
                name: file[:2] for name, file in before.items()
            }

    asyncio.run(run())


def test_a_file_that_never_was_a_video_has_failed_with_its_reason(yard: Yard) -> None:
    path = yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            await house.settled(await house.work())
            path.write_text("refused")
            await house.job(count=2)
            await house.scans()
            state, _, detail = (await listed(house))["film.mkv"]
            assert (state, detail[:17]) == ("failed", "it says 'refused'")

    asyncio.run(run())


def test_what_waits_comes_before_what_failed_and_what_was_skipped(yard: Yard) -> None:
    for name in ("a.txt", "b.mkv", "c.mkv"):
        yard.put(name, "unfinished" if name == "c.mkv" else "video")

    async def run() -> None:
        async with watching(yard) as house:
            await house.settled(await _failed(house))
            await eventually(lambda: house.watches.status()[0]["skipped"].get("unfinished"))
            (files,) = await house.watches.files()
            assert [Path(file["path"]).name for file in files] == ["c.mkv", "b.mkv", "a.txt"]

    asyncio.run(run())


async def _failed(house: House) -> Any:
    job = await house.job()
    return await house.work(fail=[Path(job.source).name])


def test_a_file_that_was_done_after_all_is_not_listed(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await _failed(house)
            await house.settled(job)
            assert (await listed(house)).keys() == {"film.mkv"}
            await house.queue.retry(job.id)
            assert await listed(house) == {}
            await house.work()
            assert await listed(house) == {}

    asyncio.run(run())


def test_an_older_version_of_a_file_is_not_listed(yard: Yard) -> None:
    path = yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            await house.settled(await _failed(house))
            path.write_text("another")
            await house.job(count=2)
            assert await listed(house) == {}

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["done", "failed", "not_video", "output"])
def test_a_known_file_is_not_logged_at_the_next_start(
    yard: Yard, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "upframe")
    watch = yard.watch(include=["*"])
    if kind == "output":
        watch = yard.watch(output=yard.input, container="mkv")
    name = "film.txt" if kind == "not_video" else "film.avi"
    yard.put(name, "refused" if kind == "not_video" else "video")

    async def run() -> None:
        async with watching(yard, watch) as house:
            if kind == "not_video":
                await eventually(lambda: "reason=not_video" in caplog.text)
            else:
                await house.job()
                await house.settled(await house.work(fail=[name] if kind == "failed" else []))
            await house.scans()
        caplog.clear()
        async with watching(yard, watch) as house:
            await house.scans(3)
            assert sum(house.watches.status()[0]["skipped"].values()) >= 1

    asyncio.run(run())
    assert "film" not in caplog.text


@pytest.mark.parametrize(
    ("options", "label"), [({}, "in"), ({"name": "films"}, "films"), ({"input": "/"}, "root")]
)
def test_a_folder_is_named_by_the_user_or_by_its_path(
    yard: Yard, options: dict[str, Any], label: str
) -> None:
    assert WatchConfig.model_validate(yard.watch(**options)).label == label
