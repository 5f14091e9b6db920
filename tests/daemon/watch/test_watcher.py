"""What a watched folder makes of files that arrive, stay, change and go."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.jobs.watching import (
    DOUBLE,
    SCAN_SECONDS,
    House,
    Judging,
    Saying,
    Yard,
    eventually,
    watching,
)

from upframe.daemon.fence import internal_errors
from upframe.daemon.jobs.model import ProbeVerdict, job_of
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.specification import ConversionSpec
from upframe.daemon.watch.records import Records
from upframe.io.root import Root


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def said(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    """The lines of the log at INFO or above in which all the words stand."""
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    return [line for line in lines if all(word in line for word in words)]


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "upframe")


def test_takes_a_file_that_is_there_at_the_start(yard: Yard) -> None:
    path = yard.put("shows/one/film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await house.job()
            assert (job.source, job.sink) == (str(path), str(yard.output / "shows/one/film.mkv"))
            assert job.origin == "watch"
            assert job.filters.frame_interpolation_exp == 1
            assert (yard.output / "shows/one").is_dir()

    asyncio.run(run())


def test_a_file_that_moves_while_it_is_probed_is_not_taken_yet(yard: Yard) -> None:
    path = yard.put("film.mkv", "one")

    class Appending(Saying):
        """Somebody writes on while it looks, twice."""

        async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
            if len(self.probed) < 2:
                yard.put("film.mkv", "one more" * (1 + len(self.probed)))
            return await super().probe(path, root)

    async def run() -> None:
        async with watching(yard, prober=Appending()) as house:
            await house.job()
            assert len(house.prober.probed) == 3
            assert str(path.stat().st_size) in (await house.job()).idempotency_key.split(":")

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["events", "poll"])
def test_takes_a_file_that_comes_later(yard: Yard, mode: str) -> None:
    async def run() -> None:
        async with watching(yard, yard.watch(mode=mode)) as house:
            await house.watches.looked()
            assert house.watches.status()[0]["mode"] == mode
            yard.put("new/folder/film.mkv")
            await house.job()

    asyncio.run(run())


def test_events_bring_the_look_forward(yard: Yard) -> None:
    """With a scan every 1000 s only the kernel can have told."""

    async def run() -> None:
        async with watching(yard, yard.watch(mode="events", scan_seconds=1000)) as house:
            await eventually(lambda: house.watches.status()[0]["scans"] == 2)  # the second: armed
            yard.put("film.mkv")
            yard.put("new/folder/film.mkv")
            await eventually(house.has_jobs(2))
            assert house.watches.status()[0]["scans"] == 2

    asyncio.run(run())


def test_waits_from_the_last_change_and_not_from_the_discovery(yard: Yard) -> None:
    path = yard.put("film.mkv", b"a")

    async def run() -> None:
        async with watching(yard, yard.watch(stable_seconds=0.8)) as house:
            for _ in range(20):  # in all twice as long as it has to hold still
                with path.open("ab") as file:
                    file.write(b"a")
                await asyncio.sleep(0.08)
                assert not house.has_jobs(1)()
            await house.job()
            assert house.prober.probed == [path]

    asyncio.run(run())


def test_half_arrived_mp4_is_looked_at_again_and_not_failed(
    yard: Yard, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = clip.read_bytes()
    path = yard.put("film.mp4", whole[: len(whole) // 2])

    async def run() -> None:
        async with watching(yard, prober=Judging()) as house:
            await eventually(lambda: said(caplog, "reason=unfinished", "film.mp4"))
            assert not house.has_jobs(1)()
            path.write_bytes(whole)
            job = await house.job()
            assert job.state == "queued"

    asyncio.run(run())


def test_a_file_that_stays_half_for_long_has_failed(yard: Yard) -> None:
    """After 360 times the stable time; here 1.4 s. If it goes on later, it is another version."""
    path = yard.put("film.mp4", "unfinished\n")

    async def run() -> None:
        async with watching(yard, yard.watch(stable_seconds=0.004, scan_seconds=0.1)) as house:
            await eventually(lambda: house.store.counts()["failed"] == 1)
            job = await house.job()
            assert job.error is not None
            assert "unfinished" in job.error.message
            assert len(house.prober.probed) < 30  # each time it waits longer
            await house.settled(job)
            path.write_text("whole")
            again = await house.job(count=2)
            assert again.state == "queued"

    asyncio.run(run())


def test_a_file_waits_for_another_job_with_its_output(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    film = yard.put("film.mkv")
    work = {"source": "/other.mkv", "sink": str(yard.output / "film.mkv"), "filters": DOUBLE}
    other = job_of(ConversionSpec.model_validate(work), id="other", origin="cli")

    async def run() -> None:
        async with watching(yard) as house:
            await house.queue.submit(other)
            await eventually(lambda: said(caplog, "film.mkv", "reason=locked", "job other, which"))
            assert [job.id for job in await house.jobs()] == ["other"]
            await house.queue.cancel("other")
            assert (await house.job(count=2)).source == str(film)

    asyncio.run(run())


def test_damaged_video_is_a_failed_job_with_a_reason(yard: Yard) -> None:
    yard.put("film.mp4", "refused\n")

    async def run() -> None:
        async with watching(yard) as house:
            await eventually(lambda: house.store.counts()["failed"] == 1)
            job = await house.job()
            assert job.error is not None
            assert (job.error.code, job.error.message) == (65, "it says 'refused'")
            await house.settled(job)
            assert names_in(yard.input) == ["film.mp4", "film.mp4.upframe-error.json"]
            await house.scans()
            assert len(house.prober.probed) == 1
            assert await house.queue.claim() is None

    asyncio.run(run())


def test_other_files_that_are_no_video_are_left_alone(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("notes.txt", "refused\n")
    watch = yard.watch(include=("*",), on_failed="move", failed_dir=yard.root / "failed")

    async def run() -> None:
        for _ in range(2):  # also after a restart
            async with watching(yard, watch) as house:
                await eventually(lambda: said(caplog, "notes.txt", "reason=not_video"))
                await house.scans()
                assert not house.has_jobs(1)()
        assert names_in(yard.input) == ["notes.txt"]
        assert len(house.prober.probed) == 0

    asyncio.run(run())


def test_same_file_and_settings_never_run_twice(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    path = yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            await house.scans()
            await house.settled(await house.work())
            os.utime(path, ns=(0, path.stat().st_mtime_ns))  # reading it makes no new version
            await house.scans()
            await house.job()
        caplog.clear()
        async with watching(yard) as house:
            await house.scans()
            await house.job()
            assert house.prober.probed == []
            assert house.watches.status()[0]["skipped"] == {"already_done": 1}
        assert said(caplog, "film.mkv") == []  # what is known is not logged at each start

    asyncio.run(run())


def test_a_changed_file_is_a_new_job_and_replaces_our_output(yard: Yard) -> None:
    """Also with on_existing = skip: what lies there is ours, of the same source."""
    path = yard.put("film.mkv", "one")

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            await house.settled(await house.work())
            path.write_text("another")
            job = await house.job(count=2)
            assert job.overwrite
            await house.settled(await house.work())
            assert (yard.output / "film.mkv").read_text() == "another"

    asyncio.run(run())


def test_changed_settings_are_a_new_job(yard: Yard) -> None:
    yard.put("film.mkv")
    twice = {"enable_frame_interpolation": True, "frame_interpolation_exp": 2}

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            await house.settled(await house.work())
        async with watching(yard, yard.watch(filters=twice)) as house:
            job = await house.job(count=2)
            assert job.filters.frame_interpolation_exp == 2
            await house.work()
            await house.scans()
            assert len(await house.jobs()) == 2

    asyncio.run(run())


def test_forgotten_jobs_are_not_run_again(yard: Yard) -> None:
    yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await house.job()
            await house.settled(await house.work())
            ended = house.store.get(job.id).ended
            assert ended is not None
            assert house.store.forget(ended.replace(year=ended.year + 1))
        (yard.output / "film.mkv").unlink()
        async with watching(yard) as house:
            await house.scans()
            assert not house.has_jobs(1)()

    asyncio.run(run())


def test_a_file_that_changes_while_it_is_queued_has_one_job(yard: Yard) -> None:
    path = yard.put("film.mkv", "one")

    async def run() -> None:
        async with watching(yard) as house:
            first = await house.job()
            path.write_text("another")
            second = await house.job(count=2)
            assert house.store.get(first.id).state == "cancelled"
            await house.settled(house.store.get(first.id))
            await house.settled(await house.work())
            assert await house.work() is None
            assert house.store.get(second.id).state == "done"
            assert (yard.output / "film.mkv").read_text() == "another"

    asyncio.run(run())


def test_a_file_that_changes_while_it_is_worked_on_is_done_anew(yard: Yard) -> None:
    path = yard.put("film.mkv", "one")

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            first = await house.queue.claim()
            assert first is not None
            stopped = asyncio.Event()

            async def stop() -> None:
                stopped.set()
                await house.queue.change(first.id, "cancelled")

            house.queue.attach(first.id, stop)
            path.write_text("another")
            await house.job(count=2)
            assert stopped.is_set()

    asyncio.run(run())


def test_outputs_are_never_inputs(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    """Output folder = input folder, with another container."""
    yard.put("film.avi")
    watch = yard.watch(output=yard.input, container="mkv")

    async def run() -> None:
        async with watching(yard, watch) as house:
            job = await house.job()
            assert job.sink == str(yard.input / "film.mkv")
            await house.settled(await house.work())
            await house.scans()
            await house.job()
        async with watching(yard, watch) as house:
            await eventually(lambda: said(caplog, "film.mkv", "reason=output"))
            await house.scans()
            await house.job()

    asyncio.run(run())


def test_nested_output_trees_are_not_looked_into(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    inner = yard.input / "made"
    inner.mkdir()
    yard.put("film.mkv")
    yard.put("made/somebody's.mkv")

    async def run() -> None:
        async with watching(yard, yard.watch(output=inner)) as house:
            await house.job()
            await house.settled(await house.work())
            await eventually(lambda: said(caplog, "made", "reason=excluded", "output of a watch"))
            await house.scans()
            job = await house.job()
            assert job.sink == str(inner / "film.mkv")
        assert len(said(caplog, "made", "reason=excluded", "output of a watch")) == 1

    asyncio.run(run())


def test_outputs_of_others_jobs_are_never_inputs(yard: Yard) -> None:
    """A job from the command line may write into a watched folder."""

    async def run() -> None:
        async with watching(yard) as house:
            work = ConversionSpec.model_validate(
                {
                    "source": "/else.mkv",
                    "sink": str(yard.input / "a.mkv"),
                    "filters": yard.watch()["filters"],
                }
            )
            await house.queue.submit(job_of(work, id="cli-1", origin="cli"))
            yard.put("a.mkv")
            await house.scans()
            await house.job()

    asyncio.run(run())


def test_output_that_would_replace_its_input_is_refused(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("film.mkv")
    watch = yard.watch(output=yard.input, on_existing="overwrite")

    async def run() -> None:
        async with watching(yard, watch) as house:
            await eventually(lambda: said(caplog, "film.mkv", "reason=collision"))
            await house.scans()
            assert not house.has_jobs(1)()
        assert len(said(caplog, "film.mkv", "reason=collision")) == 1

    asyncio.run(run())


def test_every_skip_says_why_once(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    names = {
        "film.mkv.part": "excluded",
        "._film.mkv": "excluded",
        "notes.txt": "excluded",
        "_UNPACK_film": "excluded",
        "there.mkv": "exists",
    }
    for name in names:
        yard.put(name) if not name.startswith("_UNPACK_") else yard.put(f"{name}/film.mkv")
    yard.put("there.mkv", "somebody's", yard.output)
    (yard.input / "link.mkv").symlink_to(yard.input / "there.mkv")
    names["link.mkv"] = "excluded"

    async def run() -> None:
        async with watching(yard) as house:
            await house.scans(3)
            assert not house.has_jobs(1)()
        for name, reason in names.items():
            assert len(said(caplog, f"/{name}:", f"reason={reason}")) == 1, name
        assert (yard.output / "there.mkv").read_text() == "somebody's"

    asyncio.run(run())


def test_output_that_goes_away_makes_room(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    yard.put("film.mkv")
    there = yard.put("film.mkv", "somebody's", yard.output)

    async def run() -> None:
        async with watching(yard) as house:
            await eventually(lambda: said(caplog, "film.mkv", "reason=exists"))
            await house.scans()
            assert house.prober.probed == []
            there.unlink()
            await house.job()

    asyncio.run(run())


def test_growing_file_is_said_to_wait_only_once(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    path = yard.put("film.mkv", b"a")

    async def run() -> None:
        async with watching(yard, yard.watch(stable_seconds=0.8)) as house:
            for _ in range(10):
                with path.open("ab") as file:
                    file.write(b"a")
                await asyncio.sleep(0.05)
            await house.job()
        assert len(said(caplog, "film.mkv", "reason=unstable")) == 1

    asyncio.run(run())


def test_a_name_cannot_forge_a_line_of_the_log(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("film\nERROR all is lost.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
        assert said(caplog, "all is lost")
        assert not [line for line in said(caplog) if "\n" in line]

    asyncio.run(run())


def test_name_that_looks_like_a_pattern_is_that_file(yard: Yard, clip: Path) -> None:
    path = yard.put("film [1080p] 50%d *.mp4", clip.read_bytes())

    async def run() -> None:
        async with watching(yard, prober=Judging()) as house:
            job = await house.job()
            assert (job.source, job.state) == (str(path), "queued")

    asyncio.run(run())


def test_time_of_change_in_the_future_is_no_reason_to_wait(yard: Yard) -> None:
    """A server's clock may run ahead of ours."""
    path = yard.put("film.mkv")
    os.utime(path, (4e9, 4e9))

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()

    asyncio.run(run())


def test_the_oldest_file_goes_first(yard: Yard) -> None:
    for age, name in enumerate(("new.mkv", "older.mkv", "oldest.mkv")):
        os.utime(yard.put(name), (1e9 - age, 1e9 - age))

    async def run() -> None:
        async with watching(yard, yard.watch(priority=7)) as house:
            await eventually(house.has_jobs(3))
            jobs = await house.jobs()
            assert [Path(job.source).stem for job in jobs] == ["oldest", "older", "new"]
            assert {job.priority for job in jobs} == {7}

    asyncio.run(run())


@pytest.mark.parametrize("missing", ["input", "output"])
def test_missing_root_pauses_and_nothing_is_forgotten(
    yard: Yard, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("film.mkv")
    folder, away = str(yard.root / {"input": "in", "output": "out"}[missing]), yard.root / "away"

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            shutil.move(folder, away)
            await eventually(lambda: house.watches.status()[0]["state"] == "paused")
            assert missing in house.watches.status()[0]["paused"]
            assert len(await house.jobs()) == 1
            assert Path(folder).name not in names_in(yard.root)  # nobody made it anew
            shutil.move(away, folder)
            await eventually(lambda: house.watches.status()[0]["state"] == "watching")
            yard.put("second.mkv")
            await house.job(count=2)
        assert len(said(caplog, "watching is paused")) == 1
        assert len(said(caplog, "watching is resumed")) == 1

    asyncio.run(run())


def test_missing_root_at_the_start_is_waited_for(yard: Yard) -> None:
    yard.input.rmdir()

    async def run() -> None:
        async with watching(yard) as house:
            await house.watches.looked()
            assert house.watches.status()[0]["state"] == "paused"
            yard.put("film.mkv")
            await house.job()

    asyncio.run(run())


def test_events_are_heard_again_from_a_folder_that_came_back(yard: Yard) -> None:
    watch = yard.watch(mode="events")

    async def run() -> None:
        async with watching(yard, watch) as house:
            await house.scans(1)
            shutil.rmtree(yard.input)
            await eventually(lambda: house.watches.status()[0]["state"] == "paused")
            yard.put("film.mkv")
            await house.job()
            assert house.watches.status()[0]["mode"] == "events"

    asyncio.run(run())


def test_job_whose_file_was_away_is_tried_again_once(yard: Yard) -> None:
    """An unmounted share makes a queued job fail with 66; that must not be its last word."""
    path = yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            job = await house.job()
            yard.input.rename(yard.root / "away")
            await eventually(lambda: house.watches.status()[0]["state"] == "paused")
            await house.work(fail=[path.name], code=66)
            (yard.root / "away").rename(yard.input)
            await eventually(lambda: house.store.get(job.id).state == "queued")
            await house.work(fail=[path.name], code=66)
            await house.scans()
            assert house.store.get(job.id).state == "failed"

    asyncio.run(run())


def test_two_sources_with_one_output_do_not_overwrite_each_other(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("film.avi")
    watch = yard.watch(container="mkv", on_existing="overwrite")

    async def run() -> None:
        async with watching(yard, watch) as house:
            await house.job()
            yard.put("film.mov")
            await eventually(lambda: said(caplog, "film.mov", "reason=collision"))
            await house.scans()
            await house.job()
        assert len(said(caplog, "film.mov", "reason=collision")) == 1

    asyncio.run(run())


def test_two_daemons_on_one_share_take_a_file_once(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.put("film.mkv")
    other = Yard(yard.root / "other")
    theirs: dict[str, Any] = other.watch(input=yard.input, output=yard.output)

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            async with watching(other, theirs) as house_2:
                await house_2.scans()
                assert not house_2.has_jobs(1)()
                await house.settled(await house.work())
                await house_2.scans()
                assert not house_2.has_jobs(1)()
        assert said(caplog, "film.mkv", "reason=locked")
        assert names_in(yard.output) == ["film.mkv"]

    asyncio.run(run())


def test_claim_that_a_crash_left_behind_is_cleared(yard: Yard) -> None:
    """Of a file that has gone since: nobody would ever give it back."""
    with JobStore(yard.state / "jobs.sqlite") as store:
        locks = Records(store).locks(yard.config().watch[0])
        assert locks.take(yard.output / "gone.mkv", "never-submitted") is None

    async def run() -> None:
        async with watching(yard) as house:
            await house.watches.looked()
            assert names_in(yard.output) == []

    asyncio.run(run())


def test_file_that_goes_while_it_waits_is_waited_for_no_more(yard: Yard) -> None:
    path = yard.put("film.mkv")
    watch = yard.watch(mode="poll", scan_seconds=1000)

    async def run() -> None:
        async with watching(yard, watch) as house:
            await eventually(lambda: house.watches.status()[0]["waiting"] == 1)
            path.unlink()
            await eventually(lambda: house.watches.status()[0]["waiting"] == 0)
            assert house.watches.status()[0]["scans"] == 1

    asyncio.run(run())


def test_inner_watch_owns_its_files(yard: Yard) -> None:
    inner = yard.input / "inner"
    inner.mkdir()
    yard.put("film.mkv", folder=inner)
    second = yard.watch(input=inner, priority=5)

    async def run() -> None:
        async with watching(yard, yard.watch(), second) as house:
            job = await house.job()
            await house.scans()
            assert (await house.job()).priority == job.priority == 5

    asyncio.run(run())


def test_a_share_is_polled_and_the_mode_is_said(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with watching(yard, filesystem=lambda _: "nfs4") as house:
            yard.put("film.mkv")
            await house.job()
            assert house.watches.status()[0]["mode"] == "poll"
        assert said(caplog, "watched by poll", "nfs4")

    asyncio.run(run())


def test_status_tells_how_it_stands(yard: Yard) -> None:
    yard.put("film.mkv")
    yard.put("notes.txt")

    async def run() -> None:
        async with watching(yard) as house:
            await house.job()
            await house.scans(1)
            (status,) = house.watches.status()
            assert status["input"] == str(yard.input)
            assert status["skipped"] == {"excluded": 1}
            assert (status["taken"], status["waiting"], status["errors"]) == (1, 0, 0)
            assert status["last_scan_seconds"] < SCAN_SECONDS

    asyncio.run(run())


def test_idle_watch_does_not_spin(yard: Yard) -> None:
    """A stream of events from a file that is no input must not make it scan all the time."""
    log = yard.put("noise.txt")

    async def run() -> None:
        async with watching(yard, yard.watch(mode="events", scan_seconds=1000)) as house:
            await eventually(lambda: house.watches.status()[0]["scans"] == 2)
            for _ in range(20):
                with log.open("a") as file:
                    file.write("line\n")
                await asyncio.sleep(0.02)
            await house_still(house)

    async def house_still(house: House) -> None:
        assert house.watches.status()[0]["scans"] == 2

    asyncio.run(run())


class Tripping(Saying):
    """A prober that has a bug, which some files bring out."""

    async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
        verdict = await super().probe(path)
        if path.stem == "poison":
            raise ZeroDivisionError("a bug")
        return verdict


def test_a_file_that_trips_us_is_left_alone_and_holds_up_no_other(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    poison = yard.put("poison.mkv")
    os.utime(poison, (1, 1))  # the oldest is dealt with first
    film = yard.put("film.mkv")

    async def run() -> None:
        before = internal_errors["file"]
        async with watching(yard, prober=Tripping()) as house:
            assert (await house.job()).source == str(film)
            await house.scans(4)
            assert house.prober.probed.count(poison) == 1
            assert internal_errors["file"] == before + 1
            poison.write_text("another version")
            await eventually(lambda: house.prober.probed.count(poison) == 2)

    asyncio.run(run())
    assert said(caplog, "poison.mkv", "internal error")


def test_a_file_whose_output_cannot_have_a_name_holds_up_no_other(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.settings["container"] = "webm"  # one letter more
    long = yard.put("x" * 251 + ".mkv")
    os.utime(long, (1, 1))
    film = yard.put("film.mkv")

    async def run() -> None:
        async with watching(yard) as house:
            assert (await house.job()).source == str(film)

    asyncio.run(run())
    assert said(caplog, "x" * 251, "File name too long")
