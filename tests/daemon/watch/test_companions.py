"""Subtitles, descriptions and posters beside a video go with its output, where that is wanted."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from support.jobs.watching import House, Yard, eventually, watching

from upframe.daemon.jobs.model import partial_token
from upframe.daemon.watch.scan import companions
from upframe.io.files import partial_path

BESIDE = (
    *("film.srt", "film.en.srt", "film.en.forced.ass", "film.vtt", "film.nfo", "film.jpg"),
    *("film-poster.jpg", "film-fanart.png", "film.SUB", "film.idx"),
)
ELSE = (
    *("other.srt", "film2.srt", "films.nfo", "film-notes.srt", "film.txt", "film.mp3", "film"),
    *("poster.jpg", "film.mkv.upframe-error.json"),
)


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def files_in(folder: Path) -> dict[str, str]:
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_text() for name, path in found.items()}


async def done(house: House) -> None:
    await house.job()
    await house.settled(await house.work())


def watched(yard: Yard, **more: Any) -> None:
    async def run() -> None:
        async with watching(yard, yard.watch(sidecars=True, **more)) as house:
            await done(house)

    asyncio.run(run())


def test_what_has_the_videos_name_belongs_to_it() -> None:
    assert companions("film.mkv", ["film.mkv", *BESIDE, *ELSE]) == sorted(BESIDE)


def test_of_two_videos_the_longer_name_has_it() -> None:
    names = ["film.mkv", "film.en.mkv", "film.srt", "film.en.srt", "film-2.mp4", "film-2.jpg"]
    assert companions("film.mkv", names) == ["film.srt"]
    assert companions("film.en.mkv", names) == ["film.en.srt"]
    assert companions("film-2.mp4", names) == ["film-2.jpg"]


def test_they_are_copied_under_the_name_of_the_output(yard: Yard) -> None:
    yard.put("sub/film.avi")
    for name in ("film.srt", "film.en.srt", "film-poster.jpg", "other.srt"):
        yard.put(f"sub/{name}", name)
    yard.put("sub/film.mkv", "somebody's", yard.output)
    watched(yard, container="mkv", on_existing="suffix")
    assert files_in(yard.output) == {
        "sub/film.mkv": "somebody's",
        "sub/film-1.mkv": "video",
        "sub/film-1.srt": "film.srt",
        "sub/film-1.en.srt": "film.en.srt",
        "sub/film-1-poster.jpg": "film-poster.jpg",
    }
    assert len(files_in(yard.input)) == 5


def test_they_stay_where_they_are_unless_asked_for(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("film.srt")

    async def run() -> None:
        async with watching(yard) as house:
            await done(house)

    asyncio.run(run())
    assert files_in(yard.output).keys() == {"film.mkv"}


@pytest.mark.parametrize("on_done", ["move", "delete"])
def test_they_are_copied_before_the_input_goes(yard: Yard, on_done: str) -> None:
    yard.put("film.mkv")
    yard.put("film.srt", "words")
    watched(yard, on_done=on_done, done_dir=yard.root / "done")
    assert files_in(yard.output)["film.srt"] == "words"
    assert files_in(yard.input).keys() == {"film.srt"}


def test_a_failed_video_brings_nothing(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("film.srt")

    async def run() -> None:
        async with watching(yard, yard.watch(sidecars=True)) as house:
            await house.job()
            await house.settled(await house.work(fail=["film.mkv"]))

    asyncio.run(run())
    assert files_in(yard.output) == {}


def test_nothing_is_replaced(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "upframe")
    yard.put("film.mkv")
    yard.put("film.srt", "new words")
    yard.put("film.nfo", "same")
    yard.put("film.srt", "words", yard.output)
    yard.put("film.nfo", "same", yard.output)
    watched(yard)
    assert files_in(yard.output)["film.srt"] == "words"
    (line,) = [line for line in caplog.messages if "not replaced" in line]
    assert str(yard.output / "film.srt") in line


@pytest.mark.parametrize(
    "more", [{"exclude": ["*.nfo"]}, {"include": ["*.mkv", "*.nfo"]}], ids=["excluded", "an input"]
)
def test_what_is_excluded_or_an_input_by_itself_is_left_out(
    yard: Yard, more: dict[str, Any]
) -> None:
    yard.put("film.mkv")
    yard.put("film.srt")
    yard.put("film.nfo", "refused")
    watched(yard, **more)
    assert files_in(yard.output).keys() == {"film.mkv", "film.srt"}


def test_links_and_pipes_are_not_followed(yard: Yard, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    yard.put("film.mkv")
    (yard.input / "film.srt").symlink_to(secret)
    os.mkfifo(yard.input / "film.nfo")
    os.mkfifo(yard.output / "film.jpg")
    yard.put("film.jpg")
    watched(yard)
    assert files_in(yard.output).keys() == {"film.mkv"}


def test_an_output_beside_its_input_has_them_already(yard: Yard) -> None:
    yard.put("film.avi")
    yard.put("film.srt", "words")
    watched(yard, output=yard.input, container="mkv")
    assert files_in(yard.input).keys() == {"film.avi", "film.mkv", "film.srt"}


@pytest.mark.parametrize("left", ["nothing", "a part", "all"])
def test_a_kill_between_loses_nothing_and_doubles_nothing(yard: Yard, left: str) -> None:
    """The end of a job is settled again by the next start, from the beginning."""
    yard.put("film.mkv")
    yard.put("film.srt", "words")
    watch = yard.watch(sidecars=True, on_done="delete")

    async def run() -> None:
        async with watching(yard, watch) as house:
            job = await house.job()
            house.watches.disposer._settle = lambda *_: (_ for _ in ()).throw(OSError("killed"))
            await house.work()
            await eventually(lambda: job.id in house.watches.disposer.pending)
            if left == "a part":
                target = yard.output / "film.srt"
                partial_path(target, partial_token(job.id)).write_text("wo")
            elif left == "all":
                yard.put("film.srt", "words", yard.output)
        async with watching(yard, watch) as house:
            await house.settled(job)

    asyncio.run(run())
    assert files_in(yard.output) == {"film.mkv": "video", "film.srt": "words"}
    assert [path.name for path in yard.output.iterdir() if path.name.startswith(".")] == []
    assert files_in(yard.input).keys() == {"film.srt"}


def test_what_cannot_be_copied_is_tried_again_and_the_input_stays(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("film.srt", "words")
    watch = yard.watch(sidecars=True, on_done="delete")

    async def run() -> None:
        async with watching(yard, watch) as house:
            job = await house.job()
            target = yard.output / "film.srt"
            partial_path(target, partial_token(job.id)).mkdir()  # in the way
            await house.work()
            await eventually(lambda: job.id in house.watches.disposer.pending)
            assert (yard.input / "film.mkv").exists()
            partial_path(target, partial_token(job.id)).rmdir()
        async with watching(yard, watch) as house:
            await house.settled(job)

    asyncio.run(run())
    assert files_in(yard.output)["film.srt"] == "words"


async def _skipped(house: House) -> set[str]:
    (files,) = await house.watches.files()
    names = {Path(one["path"]).name for one in files if one["state"] == "skipped"}
    assert sum(house.watches.status()[0]["skipped"].values()) >= len(names)
    return names - {"film.mkv"}  # which is done


@pytest.mark.parametrize("on_done", ["keep", "move", "delete"])
def test_what_goes_along_is_not_listed_as_skipped(
    yard: Yard, on_done: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "upframe")
    for name in ("film.mkv", "film.srt", "film.en.srt", "film-poster.jpg", "film.txt", "a.srt"):
        yard.put(name, name)
    yard.put("film.nfo", "excluded by the user")
    more = {"on_done": on_done, "done_dir": yard.root / "done", "exclude": ["*.nfo"]}

    async def run() -> None:
        async with watching(yard, yard.watch(sidecars=True, **more)) as house:
            await house.job()
            assert await _skipped(house) == {"film.txt", "a.srt", "film.nfo"}
            await house.settled(await house.work())
            await house.scans(3)
            assert await _skipped(house) == {"film.txt", "a.srt", "film.nfo"}

    asyncio.run(run())
    assert not [line for line in caplog.messages if "film.srt: skipped" in line]


def test_without_sidecars_it_is_skipped(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("film.srt")

    async def run() -> None:
        async with watching(yard) as house:
            await done(house)
            assert await _skipped(house) == {"film.srt"}

    asyncio.run(run())


def test_what_was_skipped_before_its_video_came_is_not_any_more(yard: Yard) -> None:
    yard.put("film.srt")

    async def run() -> None:
        async with watching(yard, yard.watch(sidecars=True)) as house:
            await house.scans()
            assert await _skipped(house) == {"film.srt"}
            yard.put("film.mkv")
            await house.job()
            await house.scans()
            assert await _skipped(house) == set()

    asyncio.run(run())
