"""A film in segments: the same pictures and counters however often its run was broken off."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from support.media import plain_segments
from support.media.plain_segments import (
    FRAMES,
    RUNTIME,
    Film,
    PlainSink,
    Written,
    film_of,
    run_pipeline,
)

from upframe.daemon.convert.compute import FilmCompute
from upframe.daemon.convert.conversion import execute
from upframe.daemon.convert.pipeline import Flow, Pipeline
from upframe.daemon.convert.progress import Display, snapshot_of
from upframe.daemon.convert.segments import FilmRun, one_process
from upframe.filters.frame import Picture
from upframe.filters.options import FilterOptions
from upframe.io.errors import SinkFull, SourceMissing
from upframe.io.source import open_source

MODULE = "support.media.plain_segments"
PROGRAM = Path(plain_segments.__file__)

INTERPOLATED = FilterOptions(enable_frame_interpolation=True)
ENLARGED = FilterOptions(enable_upscaling=True, upscaling_scale=2)
BOTH = FilterOptions(
    enable_frame_interpolation=True, frame_interpolation_exp=2, enable_upscaling=True,
    upscaling_scale=2,
)  # fmt: skip


def whole_of(film: Film) -> tuple[Written, dict[str, int], Flow]:
    """The film by one pass, as files are converted that are not divided."""
    with closing(open_source(str(film.source))) as source:
        compute = FilmCompute(source.info, film.built, film.options, RUNTIME, source.info.pix_fmt)
        sink = PlainSink(film.folder / "whole")
        flow = execute(Pipeline(source, compute, sink), None, Display())
        return sink.written, dict(compute.statistics()), flow


@pytest.mark.parametrize("filters", [INTERPOLATED, ENLARGED, BOTH], ids=["more", "larger", "both"])
def test_segments_give_the_pictures_and_counters_of_one_pass(
    tmp_path: Path, filters: FilterOptions
) -> None:
    film = film_of(tmp_path, filters)
    run, joined = film.run(), film.joined
    pictures, counters, flow = whole_of(film)
    assert len(film.made) >= 4
    assert joined.is_finished
    assert [one[:2] for one in joined.pictures] == [one[:2] for one in pictures]
    assert joined.pictures == pictures
    assert run.counters == counters
    assert (run.flow.frames_in, run.flow.frames_out) == (flow.frames_in, flow.frames_out)


@pytest.fixture
def film(tmp_path: Path) -> Film:
    return film_of(tmp_path, INTERPOLATED)


def test_what_is_done_is_not_made_again(film: Film) -> None:
    film.run()
    once = film.joined
    first = list(film.made)
    run, joined = film.run(), film.joined
    assert film.made == []
    assert joined.pictures == once.pictures
    assert (run.resumed.found, run.resumed.repeated) == (len(first), 0)


@pytest.mark.parametrize("fails_at", [(0, 0), (1, 3), (3, 15)])
def test_a_run_that_fails_is_continued_and_repeats_only_what_was_at_hand(
    film: Film, fails_at: tuple[int, int]
) -> None:
    number = fails_at[0]
    with pytest.raises(SinkFull, match="No space left"):
        film.run(fails_at)
    assert film.joined.is_aborted
    assert not film.joined.is_finished
    assert len(film.made) == number + 1
    run, joined = film.run(), film.joined
    total = run.resumed.segments
    assert (run.resumed.found, run.resumed.repeated) == (number, 1)
    assert len(film.made) == total - number
    pictures, counters, _ = whole_of(film)
    assert joined.pictures == pictures
    assert run.counters == counters


@dataclass
class MeetingSink(PlainSink):
    """Of the first segment, it is finished once the second one is begun, and may fail then."""

    meets: Event = field(default_factory=Event)
    is_first: bool = False
    fails: bool = False
    is_aborted: bool = False

    def write(self, picture: Picture) -> None:
        super().write(picture)
        if not self.is_first:
            self.meets.set()

    def finish(self) -> None:
        assert not self.is_first or self.meets.wait(60)
        if self.is_first and self.fails:
            raise SinkFull("no space")
        super().finish()

    def abort(self) -> None:
        self.is_aborted = True


def meet(film: Film, *, fails: bool) -> list[MeetingSink]:
    """Run a film with such sinks, and return them."""
    sinks, meets = list[MeetingSink](), Event()

    def open_sink(path: Path, _: bool) -> MeetingSink:
        sinks.append(MeetingSink(path, meets=meets, is_first=not sinks, fails=fails))
        return sinks[-1]

    make = one_process(film.built, RUNTIME, run_pipeline)
    try:
        FilmRun(film.plan(), film.work(open_sink), film.source)(film.joined, make)
    except SinkFull:
        assert fails
    return sinks


def test_a_segment_is_completed_while_the_next_is_converted(film: Film) -> None:
    sinks = meet(film, fails=False)
    assert film.joined.pictures == [one for sink in sinks for one in sink.written]
    assert film.joined.is_finished
    assert not any(sink.is_aborted for sink in sinks)


def test_where_a_segment_cannot_be_completed_the_next_is_given_up(film: Film) -> None:
    first, second = meet(film, fails=True)
    assert first.is_aborted
    assert second.is_aborted
    assert not second.path.exists()
    assert film.joined.is_aborted
    assert [entry.state for entry in film.plan().entries()][:3] == ["running", "running", "waiting"]


@pytest.mark.parametrize("damage", ["gone", "cut", "another"])
def test_a_damaged_segment_is_made_again_and_said(
    film: Film, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    film.run()
    once = film.joined
    name = film.made[2]
    path = film.folder / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "cut" else pickle.dumps([]))
    run, joined = film.run(), film.joined
    assert film.made == [name]
    assert joined.pictures == once.pictures
    assert (run.resumed.found, run.resumed.repeated) == (run.resumed.segments - 1, 1)
    assert f"segment 2 is made again: {name}" in caplog.text


def test_progress_continues_from_where_it_was(film: Film) -> None:
    with pytest.raises(SinkFull):
        film.run((2, 0))
    seen = snapshot_of(film.prepared().flow, 2 * FRAMES - 1)
    done = [entry for entry in film.plan().entries() if entry.state == "done"]
    assert seen.frames_in == sum(entry.segment.num_frames for entry in done) > 0
    assert seen.frames_out == 2 * seen.frames_in
    assert seen.elapsed_seconds > 0
    assert seen.fps == 0.0


def test_a_source_that_changes_meanwhile_ends_the_run(film: Film) -> None:
    with pytest.raises(SinkFull):
        film.run((2, 0))
    with film.source.open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceMissing, match=r"was changed during the work \(ends was"):
        film.run()
    assert film.made == []
    assert not film.joined.is_finished


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 20])
def test_a_process_that_is_killed_again_and_again_loses_the_segments_at_hand(
    film: Film, kills: int
) -> None:
    """At random moments, also while weights load and while the journal is written."""
    pictures, _, _ = whole_of(film)
    program = [sys.executable, "-m", MODULE, str(film.source)]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])}
    chance = random.Random(kills)
    for _ in range(kills):
        child = subprocess.Popen(program, env=environment)
        before = film.plan().entries()
        while film.plan().entries() == before and child.poll() is None:  # it has begun one more
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.4))
        child.kill()
        child.wait()
    subprocess.run(program, env=environment, check=True)
    entries = film.plan().entries()
    assert [entry.state for entry in entries] == ["done"] * len(entries)
    assert sum(entry.attempts for entry in entries) <= len(entries) + kills
    assert pickle.loads((film.folder / "joined").read_bytes()) == pictures
