"""Where an output goes, and what happens where something is there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs.watching import DOUBLE, Yard

from upframe.daemon.jobs.model import Job, job_of
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.specification import ConversionSpec
from upframe.daemon.watch.inspection import OutputPlacement, OutputPlacer
from upframe.daemon.watch.records import Records
from upframe.daemon.watch.scan import Signature, Skip


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


@pytest.fixture
def records(yard: Yard) -> Iterator[Records]:
    with JobStore(yard.state / "jobs.sqlite") as store:
        yield Records(store)


def placer(yard: Yard, records: Records, **settings: object) -> OutputPlacer:
    return OutputPlacer(yard.config(yard.watch(**settings)).watch[0], records)


def made(records: Records, source: Path, sink: Path) -> None:
    """Let a job have made an output."""
    sink.write_text("made")
    job = job_for(source, sink)
    records.set_latest(job)
    records.set_made(job, Signature.of(sink.stat()))


def job_for(source: Path, sink: Path) -> Job:
    work = ConversionSpec.model_validate(
        {"source": str(source), "sink": str(sink), "filters": DOUBLE}
    )
    return job_of(work, id="job-1", origin="watch")


def test_mirrors_folders_and_keeps_name_and_extension(yard: Yard, records: Records) -> None:
    source = yard.put("a/b/film.one.MKV")
    assert placer(yard, records).place(source) == OutputPlacement(
        yard.output / "a/b/film.one.MKV", False
    )


@pytest.mark.parametrize("container", ["mkv", ".mkv"])
def test_container_is_the_extension(yard: Yard, records: Records, container: str) -> None:
    source = yard.put("film.one.avi")
    assert placer(yard, records, container=container).place(source) == OutputPlacement(
        yard.output / "film.one.mkv", False
    )


def test_skip_leaves_what_is_there(yard: Yard, records: Records) -> None:
    source = yard.put("film.mkv")
    yard.put("film.mkv", "somebody's", yard.output)
    skip = placer(yard, records).place(source)
    assert isinstance(skip, Skip)
    assert skip.reason == "exists"


def test_skip_counts_broken_links_too(yard: Yard, records: Records) -> None:
    source = yard.put("film.mkv")
    (yard.output / "film.mkv").symlink_to("nowhere")
    assert isinstance(placer(yard, records).place(source), Skip)


def test_overwrite_replaces_what_is_there(yard: Yard, records: Records) -> None:
    source = yard.put("film.mkv")
    sink = yard.put("film.mkv", "somebody's", yard.output)
    place = placer(yard, records, on_existing="overwrite").place(source)
    assert place == OutputPlacement(sink, overwrite=True)


@pytest.mark.parametrize(("age", "taken"), [(-10, False), (0, False), (10, True)])
def test_if_newer_replaces_what_is_older(
    yard: Yard, records: Records, age: int, taken: bool
) -> None:
    source, sink = yard.put("film.mkv"), yard.put("film.mkv", "somebody's", yard.output)
    os.utime(sink, (1e9, 1e9))
    os.utime(source, (1e9 + age, 1e9 + age))
    place = placer(yard, records, on_existing="if-newer").place(source)
    assert (place == OutputPlacement(sink, overwrite=True)) == taken


def test_suffix_takes_the_first_free_name(yard: Yard, records: Records) -> None:
    source = yard.put("film.mkv")
    place = placer(yard, records, on_existing="suffix")
    assert place.place(source) == OutputPlacement(yard.output / "film.mkv", False)
    yard.put("film.mkv", "somebody's", yard.output)
    assert place.place(source) == OutputPlacement(yard.output / "film-1.mkv", False)
    records.set_latest(job_for(yard.put("other.mkv"), yard.output / "film-1.mkv"))
    assert place.place(source) == OutputPlacement(yard.output / "film-2.mkv", False)


def test_suffix_may_put_outputs_beside_inputs(yard: Yard, records: Records) -> None:
    source = yard.put("film.mkv")
    place = placer(yard, records, on_existing="suffix", output=yard.input)
    assert place.place(source) == OutputPlacement(yard.input / "film-1.mkv", False)


@pytest.mark.parametrize("on_existing", ["skip", "overwrite", "if-newer"])
def test_our_own_output_is_replaced_by_a_newer_version(
    yard: Yard, records: Records, on_existing: str
) -> None:
    source, sink = yard.put("film.mkv"), yard.output / "film.mkv"
    made(records, source, sink)
    place = placer(yard, records, on_existing=on_existing).place(source)
    assert place == OutputPlacement(sink, overwrite=True)


def test_our_output_that_somebody_has_touched_is_theirs(yard: Yard, records: Records) -> None:
    source, sink = yard.put("film.mkv"), yard.output / "film.mkv"
    made(records, source, sink)
    sink.write_text("edited since")
    assert isinstance(placer(yard, records).place(source), Skip)


def test_claim_without_an_output_is_no_reason_to_replace(yard: Yard, records: Records) -> None:
    """The job has failed or waits; what lies there is somebody else's."""
    source = yard.put("film.mkv")
    sink = yard.put("film.mkv", "somebody's", yard.output)
    records.set_latest(job_for(source, sink))
    assert isinstance(placer(yard, records).place(source), Skip)


@pytest.mark.parametrize("on_existing", ["skip", "overwrite", "if-newer"])
def test_output_of_another_source_is_never_replaced(
    yard: Yard, records: Records, on_existing: str
) -> None:
    avi, mov = yard.put("film.avi"), yard.put("film.mov")
    made(records, avi, yard.output / "film.mkv")
    place = placer(yard, records, on_existing=on_existing, container="mkv")
    skip = place.place(mov)
    assert isinstance(skip, Skip)
    assert skip.reason == "collision"
    avi.unlink()  # it was replaced by the other: then on_existing decides
    skip = place.place(mov)
    assert not isinstance(skip, Skip) or skip.reason == "exists"


@pytest.mark.parametrize("on_existing", ["skip", "overwrite", "if-newer"])
def test_input_is_never_its_own_output(yard: Yard, records: Records, on_existing: str) -> None:
    source = yard.put("film.mkv")
    os.link(source, yard.output / "film.mkv")
    for output in (yard.input, yard.output):
        skip = placer(yard, records, on_existing=on_existing, output=output).place(source)
        assert isinstance(skip, Skip)
        assert skip.reason == "collision"
    assert source.read_text() == "video"


def test_failed_job_gives_its_place_up(yard: Yard, records: Records) -> None:
    avi, mov = yard.put("film.avi"), yard.put("film.mov")
    job = job_for(avi, yard.output / "film.mkv")
    records.set_latest(job)
    place = placer(yard, records, container="mkv")
    assert isinstance(place.place(mov), Skip)
    records.drop_claim(job)
    assert place.place(mov) == OutputPlacement(yard.output / "film.mkv", False)
