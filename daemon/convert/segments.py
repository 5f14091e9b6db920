"""A film in segments: what is missing of its plan is made, one segment after the other, and joined.

A segment is a conversion by itself: it reads its own frames and one past its end, which only closes
the last gap, and encodes them into a file of its own. So a run without a break, a resumed one and
several workers make the same files. A finished segment is looked at again before it is used.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Literal

from pydantic import BaseModel

from ...filters.chain import BuiltFilter
from ...filters.device import Runtime
from ...filters.frame import Picture
from ...io.cuts import Segment, film_lines
from ...io.decode.decoder import Hardware, check_damage
from ...io.errors import MediaError, VerificationFailed
from ...io.media import Sink
from ...io.root import ConfinedFile
from ...io.segments import JoinedSink, SegmentFacts
from ...io.source import ContainerSource, Seen, open_source
from ..errors import ClusterAbsent, Stopped, WorkersLost
from ..specification import ConversionOptions
from .compute import FilmCompute
from .pipeline import Flow, Pipeline, StageTime
from .plan import Entry, Plan, SourceFacts

log = logging.getLogger("upframe.run")


class SegmentResult(BaseModel, frozen=True):
    """What came of a segment, for the report of the film."""

    frames_in: int
    """Without the one past its end, which the next segment counts."""
    frames_out: int
    damaged: int = 0
    """Of the frames read."""
    counters: dict[str, int]
    seconds: float
    stages: dict[str, tuple[float, float]]
    """By stage, seconds worked and waited."""
    warnings: list[str] = []
    losses: list[str] = []


class Resumed(BaseModel, frozen=True):
    """How a film was made of segments."""

    segments: int
    found: int
    """Finished by an earlier run, and whole."""
    repeated: int
    """Begun before and made again: they were in flight when a run died, or damaged since."""

    @property
    def text(self) -> str:
        """The same for people."""
        text = f"{self.segments} segments"
        if self.found or self.repeated:
            text += f", of which an earlier run has made {self.found}"
            text += f"; {self.repeated} it had begun are made again" if self.repeated else ""
        return text


class MadeSegment(BaseModel, frozen=True):
    """A segment whose file is complete, verified and on the disk."""

    kind: Literal["done"] = "done"
    number: int
    size: int
    """Bytes."""
    sha256: str
    name: str
    """Of its file."""
    result: SegmentResult


@dataclass(frozen=True, slots=True)
class SegmentWork:
    """One segment as plain data, for any process that can reach the source."""

    source: str | ConfinedFile
    segment: Segment
    seen: Seen
    """Of the whole film."""
    options: ConversionOptions
    pix_fmt: str
    """Of the output."""
    open_sink: Callable[[Path, bool], Sink]
    """Opens the sink of a segment; the flag tells the last one. Its file has its name once the
    sink is finished, verified and on the disk."""
    look_at: Callable[[Path], SegmentFacts]
    """Verifies a file again. Raises MediaError or OSError if it is not whole."""


Execute = Callable[[Pipeline], None]
"""Runs a pipeline to its end, as `execute` does."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A segment all of whose frames are with the encoder. Call `complete` or `abort`."""

    sink: Sink
    work: SegmentWork
    path: Path
    result: SegmentResult

    def complete(self) -> MadeSegment:
        """Drain the encoder, verify the file and give it its name; from any thread.

        Raises:
            MediaError, OSError: if that fails; nothing is left of the file.
        """
        try:
            self.sink.finish()
        except BaseException:
            self.abort()
            raise
        found = self.work.look_at(self.path)
        return MadeSegment(
            number=self.work.segment.number,
            size=found.size,
            sha256=found.sha256,
            name=self.path.name,
            result=self.result,
        )

    def abort(self) -> None:
        """Remove the file."""
        self.sink.abort()


def run_segment(
    work: SegmentWork,
    path: Path,
    filters: Sequence[BuiltFilter],
    runtime: Runtime,
    execute: Execute,
    flow: Flow,
) -> Converted:
    """Convert one segment, up to its last frame.

    Args:
        work: what to convert.
        path: of the file to be made; nothing is left of it if anything fails.
        filters: built, and free: their counters begin anew. They are free again afterwards.
        runtime: of the filters.
        execute: runs the pipeline.
        flow: of the film so far, which is continued.

    Raises:
        MediaError, FilterError, Stopped: whatever ended it early.
    """
    sink = work.open_sink(path, work.segment.is_last)
    before = replace(flow, stages={name: replace(one) for name, one in flow.stages.items()})
    began = time.monotonic()
    try:
        source = open_source(
            work.source,
            deinterlace=work.options.deinterlace,
            framerate=work.options.rate,
            hardware=Hardware(work.options.hwaccel, runtime.device),
            part=work.options.part,
            segment=work.segment,
            seen=work.seen,
        )
        with closing(source):
            held = _HeldSource(source, is_last=work.segment.is_last)
            compute = _SegmentCompute(held, filters, work, runtime)
            losses = source.losses if work.options.strict_streams else list[str]
            execute(Pipeline(held, compute, StrictSink(_OpenSink(sink), losses), flow=flow))
    except BaseException:
        sink.abort()
        raise
    flow.frames_in -= held.past is not None
    result = SegmentResult(
        frames_in=flow.frames_in - before.frames_in,
        frames_out=flow.frames_out - before.frames_out,
        damaged=source.num_damaged,
        counters=dict(compute.statistics()),
        seconds=time.monotonic() - began,
        stages={name: _spent(one, before.stages[name]) for name, one in flow.stages.items()},
        warnings=source.warnings(),
        losses=source.losses(),
    )
    return Converted(sink, work, path, result)


def _spent(now: StageTime, before: StageTime) -> tuple[float, float]:
    worked = now.worked_seconds - before.worked_seconds
    return worked, now.waited_seconds - before.waited_seconds


class _HeldSource:
    """A segment's source that knows its last picture: held back until no other follows."""

    def __init__(self, source: ContainerSource, *, is_last: bool) -> None:
        self.info, self.before = source.info, source.before
        self.warnings, self.close = source.warnings, source.close
        self._source = source
        self._is_last = is_last
        self.past: Picture | None = None
        """The picture past the end, once it was yielded."""

    def __iter__(self) -> Iterator[Picture]:
        held: Picture | None = None
        for picture in self._source:
            if held is not None:
                yield held
            held = picture
        if held is not None:
            self.past = None if self._is_last else held
            yield held


class _SegmentCompute(FilmCompute):
    """Computes a segment; the picture past its end closes the last gap and is not a result."""

    def __init__(
        self,
        source: _HeldSource,
        filters: Sequence[BuiltFilter],
        work: SegmentWork,
        runtime: Runtime,
    ) -> None:
        about = source.info, filters, work.options, runtime, work.pix_fmt
        super().__init__(*about, is_steady=True)
        self._scenes.look_back(source.before)
        source.before.clear()
        self._source = source
        self._has_gaps = work.options.filters.enable_frame_interpolation
        self._is_closed = False

    def __call__(self, picture: Picture, *, breaks: bool = False) -> Iterator[Picture]:
        if picture is not self._source.past:
            yield from super().__call__(picture, breaks=breaks)
            return
        self._is_closed = True
        if self._has_gaps:  # it stays in the filters, and what came before comes out
            before = Counter(self._to_frame.statistics())
            yield from super().__call__(picture, breaks=breaks)
            before.subtract(self._to_frame.statistics())
            self._counts.update(before)  # the next segment counts its pixels

    def flush(self) -> Iterator[Picture]:
        """Yield what is held, but for the picture past the end."""
        yield from self.settle() if self._is_closed else super().flush()


class StrictSink:
    """A sink that is not finished if something was lost that must not be.

    Args:
        sink: does the work.
        losses: returns what must not be lost and was, by the end.
        on_finish: called when its last stage begins: draining, completing, checking.
    """

    def __init__(
        self,
        sink: Sink,
        losses: Callable[[], list[str]],
        on_finish: Callable[[], object] = lambda: None,
    ) -> None:
        self.write, self.abort = sink.write, sink.abort
        self._sink = sink
        self._losses = losses
        self._on_finish = on_finish

    def finish(self) -> None:
        """Finish it.

        Raises:
            VerificationFailed: if something was lost.
        """
        self._on_finish()
        if lost := self._losses():
            raise VerificationFailed(f"--strict-streams: {'; '.join(lost)}")
        self._sink.finish()


class _OpenSink:
    """A sink that stays open behind the last picture, for who has it to finish."""

    def __init__(self, sink: Sink) -> None:
        self.write, self.abort = sink.write, sink.abort

    def finish(self) -> None:
        """Do nothing."""


# --------------------------------------------------------------------------------------- the film


Executor = Callable[["FilmRun"], Generator[MadeSegment]]
"""Makes the missing segments of a film, in any order."""


def one_process(filters: Sequence[BuiltFilter], runtime: Runtime, execute: Execute) -> Executor:
    """Make segments in this process, one after the other; arguments as for `run_segment`.

    While one is completed, which leaves the filters idle, the next is converted.
    """

    def make(film: FilmRun) -> Generator[MadeSegment]:
        running: list[Pipeline] = []
        is_over = Event()

        def run(pipeline: Pipeline) -> None:
            running[:] = [pipeline]
            if not is_over.is_set():
                execute(pipeline)

        def convert(number: int) -> Converted:
            work, path = film.work(number), film.path(number)
            path.unlink(missing_ok=True)  # finished, but not recorded
            return run_segment(work, path, filters, runtime, run, film.flow)

        with ThreadPoolExecutor(1, "upframe-segment") as pool:
            converted: Converted | None = None
            converting: Future[Converted] | None = None
            try:
                for number in (*sorted(film.missing), None):
                    converted = converting and converting.result()
                    converting = None
                    if number is not None:
                        film.begin(number)
                        converting = pool.submit(convert, number)
                    if converted is not None:
                        made, converted = converted.complete(), None
                        yield made
            finally:
                is_over.set()
                for pipeline in running:
                    pipeline.cancel()
                if converted is not None:
                    converted.abort()
                if converting is not None:
                    with suppress(Exception):
                        converting.result().abort()

    return make


class FilmRun:
    """The run of a film in segments: what is done is looked at, the rest is made, all is joined.

    Args:
        plan: of the film, its folder held.
        work: of any segment; the journal has the others.
        source: path to look at the source again, before each segment and before the end.

    Raises:
        SinkFull: if the journal cannot be written.
    """

    def __init__(self, plan: Plan, work: SegmentWork, source: Path) -> None:
        self._plan = plan
        self._work = work
        self._source = source
        entries = plan.entries()
        self._segments = {one.segment.number: one.segment for one in entries}
        done = (each for each in entries if each.state == "done")
        looked_at = ((each.segment.number, self._result_of(each)) for each in done)
        self._results = {number: found for number, found in looked_at if found is not None}
        begun = [entry for entry in entries if entry.attempts]
        self.resumed = Resumed(
            segments=len(entries),
            found=len(self._results),
            repeated=len(begun) - len(self._results),
        )
        self.flow = self._flow_so_far()

    def __call__(
        self, joined: JoinedSink, make: Executor, on_complete: Callable[[], None] = lambda: None
    ) -> None:
        """Make what is missing, and join all.

        Args:
            joined: takes the files; it is finished, or aborted if anything fails.
            make: makes segments.
            on_complete: called when all segments are joined, before the output is completed.

        Raises:
            MediaError, FilterError, Stopped: whatever ended it early; what is done stays.
        """
        left = deque(self._segments)
        try:
            self._join(left, joined)
            with closing(make(self)) as segments:
                for made in segments:
                    result = made.result.model_dump()
                    self._plan.finish(made.number, made.size, made.sha256, result)
                    self._results[made.number] = made.result
                    self._join(left, joined)
            self._plan.facts.source.check(self._source)
            damaged = sum(result.damaged for result in self._results.values())
            total = sum(result.frames_in for result in self._results.values())
            check_damage(str(self._work.source), damaged, total)  # as that of a film in one piece
            on_complete()
            joined.finish()
        except BaseException as error:
            joined.abort()
            if isinstance(error, MediaError | Stopped | WorkersLost | ClusterAbsent):
                text = "%d of %d segments are done; the next run continues from %s"
                log.info(text, len(self._results), len(self._segments), self.folder)
            raise

    @property
    def missing(self) -> Mapping[int, int]:
        """The frames of each segment that has no result yet, by its number."""
        missing = self._segments.keys() - self._results.keys()
        return {number: self._segments[number].num_frames for number in missing}

    @property
    def counters(self) -> Mapping[str, int]:
        """All counters of the film so far."""
        total = Counter[str]()
        for result in self._results.values():
            total.update(result.counters)
        return dict(total)

    def lines(self, name: str) -> list[str]:
        """Return the `warnings` or `losses` of the film, by those of all segments."""
        found = [getattr(self._results[number], name) for number in sorted(self._results)]
        return film_lines(line for lines in found for line in lines)

    @property
    def folder(self) -> Path:
        """Of the plan."""
        return self._plan.folder

    @property
    def source_facts(self) -> SourceFacts:
        """What tells the source from another one."""
        return self._plan.facts.source

    def work(self, number: int) -> SegmentWork:
        """Return the work of a segment."""
        return replace(self._work, segment=self._segments[number])

    def path(self, number: int) -> Path:
        """Return the file of a segment; it has its name only once it is complete."""
        return self._plan.path_of(self._segments[number])

    def begin(self, number: int) -> None:
        """Look at the source again, and record that work on a segment begins, if it is not done.

        Raises:
            SourceMissing: if the source has changed.
            SinkFull: if it cannot be recorded.
        """
        self._plan.facts.source.check(self._source)
        if number not in self._results:
            self._plan.start(number)

    def _join(self, left: deque[int], joined: JoinedSink) -> None:
        while left and left[0] in self._results:
            joined.append(self.path(left.popleft()))

    def _result_of(self, entry: Entry) -> SegmentResult | None:
        """Look at a finished segment again; one that is not as recorded is made again."""
        path = self._plan.path_of(entry.segment)
        try:
            found = self._work.look_at(path)
            if (found.size, found.sha256) == (entry.size, entry.sha256):
                return SegmentResult.model_validate(entry.result)
            reason = f"got {found.size} bytes, wanted {entry.size} of another SHA-256"
        except (MediaError, OSError, ValueError) as error:
            reason = str(error)
        log.warning("segment %d is made again: %s: %s", entry.segment.number, path.name, reason)
        self._plan.discard(entry.segment)
        return None

    def _flow_so_far(self) -> Flow:
        flow = Flow()
        for result in self._results.values():
            flow.frames_in += result.frames_in
            flow.frames_out += result.frames_out
            flow.began -= result.seconds
            flow.add(result.stages)
        flow.frames_before = flow.frames_out
        return flow
