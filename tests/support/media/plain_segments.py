"""A small film in segments whose pictures are written as they are: no encoder decides anything.

As a program it runs the film of a folder, for tests that kill it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from upframe.daemon.convert.pipeline import Pipeline
from upframe.daemon.convert.plan import Facts, Plan, SourceFacts, held, plan_folder, settings_of
from upframe.daemon.convert.segments import FilmRun, SegmentWork, one_process
from upframe.daemon.specification import ConversionOptions
from upframe.filters.chain import BuiltFilter, build_filters
from upframe.filters.device import Runtime
from upframe.filters.frame import Picture
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import SinkFull, VerificationFailed
from upframe.io.source import open_source

from .clips import make_clip

RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
FRAMES, LEAST = 40, 8
Written = list[tuple[int, int, bytes]]


@dataclass
class PlainSink:
    """Writes pictures as they are; fails at one, if told."""

    path: Path
    fails_at: int | None = None
    written: Written = field(default_factory=list)

    def write(self, picture: Picture) -> None:
        if len(self.written) == self.fails_at:
            raise SinkFull(f"cannot write {self.path}: No space left on device")
        data = b"".join(np.ascontiguousarray(plane.numpy()).tobytes() for plane in picture.planes)
        self.written.append((picture.pts, picture.duration, data))

    def finish(self) -> None:
        partial = self.path.with_name(f".{self.path.name}.test.partial")
        partial.write_bytes(pickle.dumps(self.written))
        partial.rename(self.path)

    def abort(self) -> None:
        pass


def failing_sink(name: str, how: str, path: Path, _: bool) -> PlainSink:
    """The sink of a segment in a worker, which fails, crashes or hangs over one of them."""
    if path.name != name:
        return PlainSink(path)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    hung = path.parent.parent.with_name("hung")
    if how == "hang once" and not hung.exists():
        hung.touch()
        time.sleep(3600)
    return PlainSink(path, 2 if how == "full" else None)


@dataclass
class PlainFacts:
    size: int
    sha256: str


def look_at(path: Path) -> PlainFacts:
    data = path.read_bytes()
    try:
        pickle.loads(data)
    except Exception as error:
        raise VerificationFailed(f"{path}: damaged") from error
    return PlainFacts(len(data), hashlib.sha256(data).hexdigest())


@dataclass
class PlainJoin:
    """Joins them into one list."""

    pictures: Written = field(default_factory=list)
    is_finished: bool = False
    is_aborted: bool = False

    def append(self, path: Path) -> None:
        self.pictures += pickle.loads(path.read_bytes())

    def finish(self) -> None:
        self.is_finished = True

    def abort(self) -> None:
        self.is_aborted = True


@dataclass
class Film:
    """A clip with its plan; each `run` is like that of another process."""

    source: Path
    filters: FilterOptions
    built: tuple[BuiltFilter, ...] = ()
    made: list[str] = field(default_factory=list)
    """Files of the segments that the last run began."""
    joined: PlainJoin = field(default_factory=PlainJoin)

    def __post_init__(self) -> None:
        self.options = ConversionOptions(filters=self.filters, encoder=EncoderOptions())
        self.folder = plan_folder(self.source.with_name("out.mkv"))
        self.built = build_filters(self.filters, RUNTIME)
        with closing(open_source(str(self.source))) as whole:
            self.seen, self.cuts, self.info = whole.seen, whole.cuts(LEAST), whole.info
        if not self.folder.exists():
            self.folder.mkdir()
            facts = Facts(
                source=SourceFacts.of(self.source),
                settings=settings_of(self.options),
                versions={},
                device="cpu",
                precision="float32",
                threads=1,
            )
            Plan.begun(self.folder, facts, {}, self.cuts.segments).close()

    def plan(self) -> Plan:
        plan = Plan.opened(self.folder)
        assert plan is not None
        return plan

    def work(self, open_sink: Callable[[Path, bool], PlainSink]) -> SegmentWork:
        about = self.cuts.segments[0], self.seen, self.options, self.info.pix_fmt
        return SegmentWork(str(self.source), *about, open_sink, look_at)

    def prepared(self, fails_at: tuple[int, int] | None = None) -> FilmRun:
        """The next run; it fails at a picture of a segment, if told."""
        plan = self.plan()
        self.made, self.joined = [], PlainJoin()

        def open_sink(path: Path, _: bool) -> PlainSink:
            self.made.append(path.name)
            [number] = [each.number for each in self.cuts.segments if plan.path_of(each) == path]
            fails = fails_at is not None and number == fails_at[0]
            return PlainSink(path, fails_at[1] if fails and fails_at else None)

        return FilmRun(plan, self.work(open_sink), self.source)

    def run(self, fails_at: tuple[int, int] | None = None) -> FilmRun:
        prepared = self.prepared(fails_at)
        prepared(self.joined, one_process(self.built, RUNTIME, run_pipeline))
        return prepared


def run_pipeline(pipeline: Pipeline) -> None:
    asyncio.run(pipeline.run())


def film_of(folder: Path, filters: FilterOptions) -> Film:
    """A clip in a folder, with a key frame every 8 frames and open groups of pictures."""
    options = {"g": "8", "bf": "2", "x264-params": "open-gop=1"}
    return Film(make_clip(folder / "in.mkv", frames=FRAMES, options=options), filters)


if __name__ == "__main__":
    film = Film(Path(sys.argv[1]), FilterOptions(enable_frame_interpolation=True))
    with held(film.folder, film.source):
        film.run()
    film.folder.joinpath("joined").write_bytes(pickle.dumps(film.joined.pictures))
