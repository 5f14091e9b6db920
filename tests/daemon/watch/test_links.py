"""Links in and around a watched folder: none leads out of it, and out of its outputs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest
from support.jobs.watching import House, Yard, eventually, watching

from upframe.daemon.jobs.model import Confinement, ProbeVerdict
from upframe.daemon.watch.scan import LOCKS_FOLDER, SIDECAR_SUFFIX
from upframe.io.root import Root


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path / "yard")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "film.mkv").write_text("secret")
    return outside


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "upframe")


def seen(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


def bend(path: Path, leads: Path) -> None:
    if os.path.lexists(path):
        path.rename(path.with_name(f".{path.name}.aside"))
    path.symlink_to(leads)


async def confined(house: House) -> Confinement:
    job = await house.job()
    assert job.confined is not None
    return job.confined


def test_a_job_says_beneath_which_folders_it_works_and_what_was_accepted(yard: Yard) -> None:
    async def run() -> None:
        film = yard.put("sub/film.mkv")
        async with watching(yard) as house:
            confined_to = await confined(house)
            status = film.stat()
            assert confined_to.accepted is not None
            assert confined_to.accepted.inode == status.st_ino
            assert confined_to.accepted.mtime_ns == status.st_mtime_ns
            assert confined_to.source is not None
            assert confined_to.sink is not None
            assert (confined_to.source.path, confined_to.sink.path) == (yard.input, yard.output)
            assert confined_to.source.closed == confined_to.sink.closed == yard.state
            assert confined_to.path is None

    asyncio.run(run())


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_exchanged_for_a_link_while_it_is_probed_is_not_taken(
    yard: Yard, outside: Path, what: str
) -> None:
    probed: list[str] = []

    class Bending:
        """Looks as the daemon's prober does, after what it is to look at was exchanged."""

        async def probe(self, path: Path, root: Root | None = None) -> ProbeVerdict:
            return self._judged(path, root)

        def _judged(self, path: Path, root: Root | None) -> ProbeVerdict:
            from upframe.daemon.workers.attempt import (
                probe_file,  # loads codecs, which few tests need
            )

            if not path.is_symlink() and not path.parent.is_symlink():
                bend(path if what == "file" else path.parent, outside / path.name)
            verdict = probe_file(str(path), root)
            probed.append(verdict.message)
            return verdict

    async def run() -> None:
        yard.put("sub/film.mkv")
        if what == "folder":
            (outside / "film.mkv").rename(outside / "kept")
            (outside / "film.mkv").mkdir()  # what the folder is exchanged for
            (outside / "kept").rename(outside / "film.mkv" / "film.mkv")
        async with watching(yard, prober=Bending()) as house:
            await eventually(lambda: probed)
            await house.scans(3)
            assert await house.jobs() == []
        assert all("leads outside of" in message for message in probed)

    asyncio.run(run())


@pytest.mark.parametrize("folder", ["sub", LOCKS_FOLDER])
def test_nothing_is_made_where_a_folder_of_outputs_leads_outside(
    yard: Yard, outside: Path, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        before = seen(outside)
        (yard.output / folder).symlink_to(outside)
        yard.put("sub/deep/film.mkv")
        async with watching(yard) as house:
            await eventually(lambda: "reason=unwritable" in caplog.text)
            assert seen(outside) == before
            (yard.output / folder).unlink()
            await house.job()

    asyncio.run(run())
    assert "leads outside of" in caplog.text


def test_a_lock_that_is_a_link_is_not_followed(yard: Yard, outside: Path) -> None:
    async def run() -> None:
        yard.put("film.mkv")
        async with watching(yard) as house:
            await house.job()
            (lock,) = (yard.output / LOCKS_FOLDER).iterdir()
            claim = lock.read_text()
            (outside / "lock").write_text(claim)
            os.utime(outside / "lock", ns=(0, 0))
            bend(lock, outside / "lock")
            await house.scans(3)
            assert (outside / "lock").stat().st_mtime_ns == 0
            assert (outside / "lock").stat().st_atime_ns == 0

    asyncio.run(run())


def test_an_input_is_not_deleted_for_an_output_that_lies_elsewhere(
    yard: Yard, outside: Path
) -> None:
    yard.settings |= {"on_done": "delete"}

    async def run() -> None:
        film = yard.put("sub/film.mkv")
        async with watching(yard) as house:
            job = await house.job()
            claimed = await house.queue.claim()
            assert claimed is not None
            bend(yard.output / "sub", outside)  # it has a file of that name
            done = await house.queue.change(job.id, "done", report={"frames_in": 2})
            await house.settled(done)
            assert film.exists()

    asyncio.run(run())


@pytest.mark.parametrize("end", ["done", "failed"])
def test_inputs_are_not_moved_to_where_a_link_leads(yard: Yard, outside: Path, end: str) -> None:
    target = yard.root / end
    target.mkdir()
    yard.settings |= {
        "on_done": "move",
        "done_dir": yard.root / "done",
        "on_failed": "move",
        "failed_dir": yard.root / "failed",
    }

    async def run() -> None:
        before = seen(outside)
        film = yard.put("sub/film.mkv")
        async with watching(yard) as house:
            job = await house.job()
            bend(target / "sub", outside)
            await house.work(fail=["film.mkv"] if end == "failed" else [])
            await eventually(lambda: job.id in house.watches.disposer.pending)
            assert "leads outside of" in house.watches.disposer.pending[job.id]
            assert film.exists()
            assert seen(outside) == before

    asyncio.run(run())


@pytest.mark.parametrize("end", ["done", "failed"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_folder_inside_the_input_is_opened_beneath_it(
    yard: Yard, outside: Path, end: str, deep: bool
) -> None:
    places = {
        "done_dir": yard.input / "ends" / "done",
        "failed_dir": yard.input / "ends" / "failed",
    }
    yard.settings |= {"on_done": "move", "on_failed": "move", **places}

    async def run() -> None:
        before = seen(outside)
        film = yard.put("film.mkv")
        async with watching(yard) as house:
            job = await house.job()
            target = places[f"{end}_dir"]
            (yard.input / "ends").mkdir()
            bend(target.parent if deep else target, outside)
            await house.work(fail=["film.mkv"] if end == "failed" else [])
            await eventually(lambda: job.id in house.watches.disposer.pending)
            assert "leads outside of" in house.watches.disposer.pending[job.id]
            assert film.exists()
            assert seen(outside) == before

    asyncio.run(run())


def test_an_output_folder_inside_the_input_is_opened_beneath_it(
    yard: Yard, outside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yard.settings |= {"output": yard.input / "made"}

    async def run() -> None:
        before = seen(outside)
        (yard.input / "made").symlink_to(outside)
        yard.put("other.mkv")
        async with watching(yard) as house:
            await eventually(lambda: "reason=unwritable" in caplog.text)
            assert seen(outside) == before
            (yard.input / "made").unlink()
            (yard.input / "made").mkdir()
            sink = (await confined(house)).sink
            assert sink is not None
            assert sink.path == yard.input

    asyncio.run(run())
    assert "leads outside of" in caplog.text


def test_inputs_are_not_moved_away_from_where_a_link_leads(yard: Yard, outside: Path) -> None:
    yard.settings |= {"on_done": "delete"}

    async def run() -> None:
        film = yard.put("sub/film.mkv")
        async with watching(yard) as house:
            job = await house.job()
            await house.queue.claim()
            (yard.output / "sub" / "film.mkv").write_text("made")
            os.link(film, outside / "same.mkv")
            os.replace(outside / "same.mkv", outside / "film.mkv")  # the very file, elsewhere
            bend(yard.input / "sub", outside)
            await house.queue.change(job.id, "done", report={"frames_in": 2})
            await eventually(lambda: job.id in house.watches.disposer.pending)
            assert (outside / "film.mkv").exists()

    asyncio.run(run())


def test_an_explanation_that_is_a_link_is_neither_read_nor_written(
    yard: Yard, outside: Path
) -> None:
    theirs = outside / "theirs.json"
    theirs.write_text(json.dumps({"schema": "upframe.error/1"}))
    os.utime(theirs, ns=(0, 5))

    async def run() -> None:
        film = yard.put("film.mkv")
        async with watching(yard) as house:
            film.with_name(film.name + SIDECAR_SUFFIX).symlink_to(theirs)
            await house.job()
            await house.settled(await house.work())
        assert (theirs.stat().st_atime_ns, theirs.stat().st_mtime_ns) == (0, 5)

    asyncio.run(run())


def test_links_are_passed_over_unless_they_are_to_be_followed(
    yard: Yard, outside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        (yard.input / "film.mkv").symlink_to(outside / "film.mkv")
        async with watching(yard) as house:
            await house.scans(3)
            assert await house.jobs() == []
        async with watching(yard, yard.watch(follow_links=True)) as house:
            await house.scans(3)
            assert await house.jobs() == []

    asyncio.run(run())
    assert "reason=excluded: symbolic link\n" in caplog.text
    assert "symbolic link: it leads out of the permitted folders" in caplog.text


@pytest.mark.parametrize("where", ["below the input", "below a root"])
def test_links_are_followed_to_files_below_the_input_and_the_roots(
    yard: Yard, tmp_path: Path, where: str
) -> None:
    root = tmp_path / "library"
    target = (yard.input if where == "below the input" else root) / ".store" / "real.mkv"
    target.parent.mkdir(parents=True)
    target.write_text("video")
    link = yard.input / "film.mkv"
    link.symlink_to(target)
    entry = yard.watch(follow_links=True, on_done="delete")
    made = yard.config(entry)
    config = made.model_copy(update={"jobs": made.jobs.model_copy(update={"roots": (root,)})})

    async def run() -> None:
        async with watching(yard, config=config) as house:
            job = await house.job()
            assert (job.source, job.sink) == (str(link), str(yard.output / "film.mkv"))
            assert job.confined is not None
            assert job.confined.source is not None
            assert job.confined.source.path == target.parent.parent
            assert job.confined.path == target
            assert house.prober.probed == [target]
            await house.settled(await house.work())
            assert link.is_symlink()  # links, and what they lead to, stay
            assert target.exists()
            await house.scans(3)
            assert len(await house.jobs()) == 1

    asyncio.run(run())
