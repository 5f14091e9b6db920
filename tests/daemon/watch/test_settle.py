"""What becomes of an input when its job has ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from support.jobs.watching import House, Yard, eventually, watching

from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import JobStore


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "upframe")


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def do_one(house: House, *, fail: bool = False) -> None:
    job = await house.job()
    names = [Path(job.source).name] if fail else []
    await house.settled(await house.work(fail=names))


def test_done_input_is_kept_by_default(yard: Yard) -> None:
    yard.put("sub/film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            await do_one(house)

    asyncio.run(run())
    assert files_in(yard.input) == files_in(yard.output) == ["sub/film.mkv"]


def test_done_input_is_moved_with_its_folder(yard: Yard) -> None:
    yard.put("sub/film.mkv")
    yard.put("sub/film.srt", "words")
    done = yard.input / "done"

    async def run() -> None:
        async with watching(yard, yard.watch(on_done="move", done_dir=done)) as house:
            await do_one(house)
            await house.scans()
            assert len(await house.jobs()) == 1  # it is inside, and not taken again

    asyncio.run(run())
    assert files_in(yard.input) == ["done/sub/film.mkv", "sub/film.srt"]


def test_done_input_is_deleted_and_nothing_else(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("film.srt", "words")
    yard.put("film.nfo", "words")

    async def run() -> None:
        async with watching(yard, yard.watch(on_done="delete")) as house:
            await do_one(house)

    asyncio.run(run())
    assert files_in(yard.input) == ["film.nfo", "film.srt"]
    assert files_in(yard.output) == ["film.mkv"]


def test_input_is_kept_while_its_job_runs(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard, yard.watch(on_done="delete")) as house:
            await house.job()
            assert await house.queue.claim() is not None
            await house.scans()

    asyncio.run(run())
    assert files_in(yard.input) == ["film.mkv"]


@pytest.mark.parametrize("on_done", ["move", "delete"])
@pytest.mark.parametrize("flaw", ["no output", "empty output", "changed", "not verified", "link"])
def test_input_is_kept_if_anything_is_amiss(
    yard: Yard, on_done: str, flaw: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = yard.put("film.mkv")
    watch = yard.watch(on_done=on_done, done_dir=yard.root / "done", scan_seconds=1000)

    async def run() -> None:
        async with watching(yard, watch | {"mode": "poll"}) as house:
            await house.job()
            job = await house.queue.claim()
            assert job is not None
            _spoil(flaw, path, yard.output / "film.mkv")
            report = None if flaw == "not verified" else {"frames_in": 2}
            await house.settled(await house.queue.change(job.id, "done", report=report))

    asyncio.run(run())
    assert path.exists()
    assert [line for line in caplog.messages if "film.mkv: kept, " in line]


def _spoil(flaw: str, source: Path, sink: Path) -> None:
    if flaw == "link":
        os.link(source, sink)
    elif flaw != "no output":
        sink.write_text("" if flaw == "empty output" else "made")
    if flaw == "changed":
        source.write_text("more")


def test_failed_input_is_left_with_the_reason_beside_it(yard: Yard) -> None:
    path = yard.put("sub/film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            await do_one(house, fail=True)

    asyncio.run(run())
    assert files_in(yard.input) == ["sub/film.mkv", "sub/film.mkv.upframe-error.json"]
    account = json.loads(Path(f"{path}.upframe-error.json").read_text())
    assert account["schema"] == "upframe.error/1"
    assert account["source"] == str(path)
    assert account["error"]["message"] == "as asked for"
    assert (account["error"]["code"], account["attempts"]) == (65, 1)
    assert account["job"] in account["again"]


def test_failed_input_is_moved_with_the_reason_beside_it(yard: Yard) -> None:
    yard.put("sub/film.mkv")
    failed = yard.root / "failed"
    (failed / "sub").mkdir(parents=True)
    (failed / "sub/film.mkv").write_text("an earlier one")

    async def run() -> None:
        async with watching(yard, yard.watch(on_failed="move", failed_dir=failed)) as house:
            await do_one(house, fail=True)

    asyncio.run(run())
    assert files_in(yard.input) == []
    names = ["sub/film-1.mkv", "sub/film-1.mkv.upframe-error.json", "sub/film.mkv"]
    assert files_in(failed) == names


def test_failed_input_that_has_changed_is_left_alone(yard: Yard) -> None:
    path = yard.put("film.mkv")
    watch = yard.watch(on_failed="move", failed_dir=yard.root / "failed", scan_seconds=1000)

    async def run() -> None:
        async with watching(yard, watch | {"mode": "poll"}) as house:
            await house.job()
            path.write_text("more")
            await house.settled(await house.work(fail=["film.mkv"]))

    asyncio.run(run())
    assert files_in(yard.input) == ["film.mkv"]


def test_reason_goes_when_the_file_is_done_after_all(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("else.mkv.upframe-error.json", '{"schema": "somebody\'s"}')

    async def run() -> None:
        async with watching(yard) as house:
            await do_one(house, fail=True)
            job = await house.job()
            await house.queue.retry(job.id)
            await house.work()
            await eventually(lambda: not Path(f"{job.source}.upframe-error.json").exists())

    asyncio.run(run())
    assert files_in(yard.input) == ["else.mkv.upframe-error.json", "film.mkv"]


def test_cancelled_input_is_left_alone(yard: Yard) -> None:
    yard.put("film.mkv")
    more: dict[str, Any] = {"on_failed": "move", "failed_dir": yard.root / "failed"}

    async def run() -> None:
        async with watching(yard, yard.watch(on_done="delete", **more)) as house:
            job = await house.job()
            await house.settled(await house.queue.cancel(job.id))

    asyncio.run(run())
    assert files_in(yard.input) == ["film.mkv"]
    assert files_in(yard.output) == []


def test_jobs_that_ended_while_nobody_watched_are_settled(yard: Yard) -> None:
    yard.put("film.mkv")
    watch = yard.watch(on_done="move", done_dir=yard.root / "done")

    async def run() -> None:
        async with watching(yard, watch) as house:
            await house.job()
        with JobStore(yard.state / "jobs.sqlite") as store:
            queue = JobQueue(store)
            job = await queue.claim()
            assert job is not None
            Path(job.sink).write_text("made")  # noqa: ASYNC240
            await queue.change(job.id, "done", report={})
            await queue.close()
        async with watching(yard, watch) as house:
            await house.settled(job)

    asyncio.run(run())
    assert files_in(yard.root / "done") == ["film.mkv"]
    assert files_in(yard.input) == []


def test_an_end_is_settled_once(yard: Yard) -> None:
    """A file that is put back later under the same name is not moved for an old job's sake."""
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard, yard.watch(on_done="delete")) as house:
            await do_one(house)
            assert files_in(yard.input) == []
        yard.put("film.mkv", "another")
        async with watching(yard, yard.watch(on_done="delete")) as house:
            await house.job(count=2)
            await house.scans()

    asyncio.run(run())
    assert files_in(yard.input) == ["film.mkv"]


def test_what_cannot_be_moved_is_said_and_tried_again(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("film.mkv")
    done = yard.root / "done"
    done.write_text("a file where a folder should be")
    watch = yard.watch(on_done="move", done_dir=done)

    async def run() -> None:
        async with watching(yard, watch) as house:
            await house.job()
            job = await house.work()
            assert job is not None
            await eventually(lambda: job.id in house.watches.disposer.pending)
            assert files_in(yard.input) == ["film.mkv"]
        done.unlink()
        async with watching(yard, watch) as house:
            await house.settled(job)
            assert house.watches.disposer.pending == {}

    asyncio.run(run())
    assert files_in(done) == ["film.mkv"]
    assert [line for line in caplog.messages if "its input is not moved yet" in line]


def test_ends_wait_for_a_missing_root(yard: Yard) -> None:
    yard.put("film.mkv")
    watch = yard.watch(on_done="move", done_dir=yard.root / "done")

    async def run() -> None:
        async with watching(yard, watch) as house:
            await house.job()
            job = await house.queue.claim()
            assert job is not None
            yard.input.rename(yard.root / "away")
            yard.put("film.mkv", "made", yard.output)
            await house.queue.change(job.id, "done", report={})
            await eventually(lambda: job.id in house.watches.disposer.pending)
        (yard.root / "away").rename(yard.input)
        async with watching(yard, watch) as house:
            await house.settled(job)

    asyncio.run(run())
    assert files_in(yard.root / "done") == ["film.mkv"]


def test_longest_names_get_their_reason_too(yard: Yard) -> None:
    name = f"{'ä' * 120}.mkv"  # 244 bytes, of 255
    yard.put(name)

    async def run() -> None:
        async with watching(yard) as house:
            await do_one(house, fail=True)

    asyncio.run(run())
    reason = next(found for found in files_in(yard.input) if found != name)
    assert reason.startswith("ä" * 100)
    assert reason.endswith(".upframe-error.json")


def test_job_that_is_tried_again_is_not_settled_for_its_first_end(yard: Yard) -> None:
    yard.put("film.mkv")
    watch = yard.watch(on_failed="move", failed_dir=yard.root / "failed")

    async def run() -> None:
        async with watching(yard, watch) as house:
            await house.job()
        with JobStore(yard.state / "jobs.sqlite") as store:
            queue = JobQueue(store)
            job = await queue.claim()
            assert job is not None
            await queue.change(job.id, "failed")
            await queue.retry(job.id)
            await queue.close()
        async with watching(yard, watch) as house:
            await house.scans()
            assert files_in(yard.input) == ["film.mkv"]
            await house.settled(await house.work())

    asyncio.run(run())
    assert files_in(yard.input) == files_in(yard.output) == ["film.mkv"]
