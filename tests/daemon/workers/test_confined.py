"""What a worker does for others stays beneath the roots, whatever is exchanged while it works."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from support.jobs.work import FAST, new_job, work_of
from support.media.clips import make_clip

from upframe.daemon.convert.conversion import Ledger, run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.convert.progress import Display
from upframe.daemon.convert.report import Report
from upframe.daemon.jobs.model import Confinement, Job, partial_token
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.workers.attempt import confined_request
from upframe.daemon.workers.ledger import Result, Results
from upframe.daemon.workers.outcomes import settle
from upframe.filters.chain import build_filters
from upframe.filters.device import Runtime
from upframe.io.errors import MediaError, SinkRefused, SourceMissing
from upframe.io.files import partial_path
from upframe.io.root import Identity, Root

ENLARGE = {"enable_upscaling": True, "upscaling_scale": 2}
RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
JOB = "a-job"
Renames = Sequence[tuple[Path, Path]]


class Place:
    """A root with a film and a folder for outputs, and what lies outside of it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside"
        self.output = self.root / "out"
        self.output.mkdir(parents=True)
        self.outside.mkdir()
        self.film = make_clip(self.root / "film.mkv", frames=4, audio="aac")
        (self.outside / "out.mkv").write_text("precious")

    def confined(self, **more: Any) -> Confinement:
        root = Root(self.root)
        accepted = Identity.of(self.film.stat())
        return Confinement(source=root, sink=root, accepted=accepted).model_copy(update=more)

    def bend(self, path: Path, leads: Path) -> None:
        if os.path.lexists(path):
            path.rename(path.with_name(f"{path.name}.aside"))
        path.symlink_to(leads)

    def outside_now(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.outside.iterdir()}

    def work(
        self,
        name: str = "out.mkv",
        *,
        to: Confinement | None = None,
        meanwhile: Callable[[str], None] = lambda _: None,
        overwrite: bool = False,
    ) -> list[tuple[str, str]]:
        """Do a job as a worker does; `meanwhile` is told what it is about to do.

        Returns:
            the files that it said it would publish, by their temporary and their final names.
        """
        told: list[tuple[str, str]] = []

        def record(report: Report, renames: Renames) -> None:
            assert report.sink == str(self.output / name)
            told.extend((partial.name, final.name) for partial, final in renames)
            meanwhile("publish")

        def build(*arguments: Any) -> Any:
            meanwhile("build")  # the source is open, the output not yet
            return build_filters(*arguments)

        class Told(Display):
            def begin(self, stage: str) -> None:
                meanwhile(stage)

        encoder = {} if name.endswith(".png") else FAST
        work = work_of(
            self.film, self.output / name, filters=ENLARGE, encoder=encoder, overwrite=overwrite
        )
        with ExitStack() as opened:
            request = RunRequest(work.source, work.sink, work, RUNTIME)
            request = confined_request(request, to or self.confined(), opened)
            ledger = Ledger(partial_token(JOB), record)
            run(request, Told(), ledger=ledger, filters=build, announce=False)
        return told


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_job_is_done_where_it_was_said(place: Place) -> None:
    told = place.work()
    assert told == [(f".out.mkv.{partial_token(JOB)}.partial", "out.mkv")]
    assert os.listdir(place.output) == ["out.mkv"]
    with av.open(str(place.output / "out.mkv")) as made:
        assert len(made.streams.audio) == 1


def test_all_that_reads_the_source_reads_the_file_that_was_opened(place: Place) -> None:
    """Sound is copied through an opening of its own, after the pictures have begun."""

    def meanwhile(what: str) -> None:
        if what == "build":
            place.bend(place.film, place.outside / "out.mkv")

    place.work(meanwhile=meanwhile)
    with av.open(str(place.output / "out.mkv")) as made:
        assert sum(packet.size > 0 for packet in made.demux(audio=0)) > 1


@pytest.mark.parametrize("moment", ["build", "streaming", "publish"])
def test_an_output_stays_in_the_folder_that_was_opened(place: Place, moment: str) -> None:
    def meanwhile(what: str) -> None:
        if what == moment:
            place.bend(place.output, place.outside)

    before = place.outside_now()
    place.work(meanwhile=meanwhile, overwrite=True)
    assert place.outside_now() == before
    assert os.listdir(place.root / "out.aside") == ["out.mkv"]


@pytest.mark.parametrize("name", ["out.mkv", "out_%03d.png"])
@pytest.mark.parametrize("moment", ["loading", "streaming", "publishing", "publish"])
def test_a_temporary_name_that_becomes_a_link_is_not_followed(
    place: Place, name: str, moment: str
) -> None:
    folder = name.endswith(".png")
    if folder:
        (place.outside / "out_001.png").write_text("theirs")

    def meanwhile(what: str) -> None:
        if what == moment:
            partial = partial_path(place.output / name, partial_token(JOB))
            place.bend(partial, place.outside if folder else place.outside / "out.mkv")

    before = place.outside_now()
    with suppress(MediaError, OSError):  # it may be refused, as long as it is not followed
        place.work(name, meanwhile=meanwhile)
    assert place.outside_now() == before
    assert not (place.output / "out.mkv").is_symlink()
    for made in place.output.glob("out_*.png"):
        assert made.read_bytes() != b"theirs"


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch], ids=["FIFO", "file"])
def test_an_output_that_is_a_link_is_replaced_and_not_written_through(
    place: Place, make: Callable[[Path], None]
) -> None:
    make(place.outside / "theirs")
    (place.output / "out.mkv").symlink_to(place.outside / "theirs")
    with pytest.raises(SinkRefused, match=r"output (exists|appeared).*out/out.mkv"):
        place.work()
    place.work(overwrite=True)
    assert not (place.output / "out.mkv").is_symlink()
    assert (place.outside / "theirs").stat().st_size == 0


def test_what_is_refused_is_said_by_its_name(place: Place) -> None:
    (place.output / "out.mkv").write_text("there")
    with pytest.raises(SinkRefused, match=f"output exists: {place.output / 'out.mkv'} "):
        place.work()
    place.output.rename(place.root / "gone")
    with pytest.raises(SinkRefused, match=f"output folder does not exist: {place.output}$"):
        place.work()
    to = place.confined()
    place.film.unlink()
    with pytest.raises(SourceMissing, match=r"film.mkv: no such file$"):
        place.work(to=to)


def test_a_link_whose_target_was_accepted_is_read_there(place: Place, tmp_path: Path) -> None:
    library = Root(tmp_path / "library")
    library.path.mkdir()
    real = place.film.rename(library.path / "real.mkv")
    place.film.symlink_to(place.outside / "out.mkv")  # bent since
    accepted = Identity.of(real.stat())
    place.work(to=place.confined(source=library, path=real, accepted=accepted))
    assert os.listdir(place.output) == ["out.mkv"]


# Recovery


def finished(place: Place, kept: Results) -> tuple[Job, Path]:
    """A job that has noted its result, and not renamed it."""
    job = new_job(JOB, place.film, place.output / "out.mkv")
    job = job.model_copy(update={"confined": place.confined()})
    partial = partial_path(place.output / "out.mkv", partial_token(JOB))
    partial.write_text("a film")
    renames = [(partial, place.output / "out.mkv")]
    kept.write(Result.of(JOB, job.work.digest, renames, {"frames_out": 4}))
    return job, partial


def test_recovery_completes_what_was_ready(place: Place, tmp_path: Path) -> None:
    kept = Results(tmp_path / "results")
    job, _ = finished(place, kept)
    assert settle(job, kept) == {"frames_out": 4}
    assert (place.output / "out.mkv").read_text() == "a film"
    assert os.listdir(place.output) == ["out.mkv"]


def test_recovery_touches_nothing_where_the_folder_leads_outside(
    place: Place, tmp_path: Path
) -> None:
    kept = Results(tmp_path / "results")
    job, partial = finished(place, kept)
    os.link(partial, place.outside / partial.name)  # the very file, elsewhere
    place.bend(place.output, place.outside)
    before = place.outside_now()
    with pytest.raises(OSError, match="leads outside of"):
        settle(job, kept)
    assert place.outside_now() == before
    (place.output).unlink()
    (place.root / "out.aside").rename(place.output)
    assert settle(job, kept) == {"frames_out": 4}


def test_who_tries_a_job_again_means_the_source_as_it_is_then(tmp_path: Path, place: Place) -> None:
    with JobStore(tmp_path / "jobs.sqlite") as store:
        job, _ = store.add(
            new_job(JOB, place.film, place.output / "x.mkv").model_copy(
                update={"confined": place.confined()}
            )
        )
        store.change(job.id, "cancelled")
        again = store.retry(job.id)
    assert again.confined == place.confined(accepted=None)
