"""One conversion: plan, load, stream, verify, publish. The command `run` and every job do this."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...filters.chain import BuiltFilter, build_filters
from ...filters.device import Runtime
from ...filters.frame import StreamInfo
from ...filters.options import FilterOptions
from ...io.errors import MediaError, NotAsPlanned
from ...io.files import Owner, discard_partials, discard_unpublished, refuse_writer
from ...io.images import ImageSink
from ...io.segments import JoinedSink, open_joined_sink, open_segment_sink, segment_facts
from ...io.sink import FileSink, open_file_sink
from ...io.web import current_rules
from ..errors import Stopped
from ..specification import ConversionOptions
from .compute import Compute, FilmCompute
from .crew import Crew, Setup
from .estimate import Estimate, Film, estimate
from .memory import Memory, memory_of
from .pipeline import Flow, Pipeline
from .plan import OUTPUT_TOKEN
from .preflight import Preflight, RunRequest, preflight
from .progress import Display, show_progress
from .report import Report, WarningLog, kept_warnings, make_report
from .resume import Division, divided
from .segments import Execute, FilmRun, SegmentWork, StrictSink, one_process

log = logging.getLogger("upframe.run")

AnySink = TypeVar("AnySink", bound=FileSink | ImageSink | JoinedSink)


def execute(
    pipeline: Pipeline, total: int | None, display: Display, estimate: Estimate | None = None
) -> Flow:
    """Run a pipeline in this process. A first SIGINT or SIGTERM stops it, a second kills it.

    Raises:
        Stopped: after a first signal.
        MediaError, FilterError: whatever ended the work early.
    """
    asyncio.run(_execute_all(lambda run: run(pipeline), pipeline.flow, total, display, estimate))
    return pipeline.flow


async def _execute_all(
    work: Callable[[Execute], None],
    flow: Flow,
    total: int | None,
    display: Display,
    estimate: Estimate | None = None,
    on_stop: Callable[[int], None] = lambda _: None,
) -> None:
    """Run pipelines one after the other, as `execute` does one.

    Args:
        work: gets what runs a pipeline; it is called in a thread of its own. After a first signal,
            the pipeline that runs or is to be run next raises `Stopped`.
        flow: of all of them.
        total: frames of the whole output, if known.
        display: shows the progress.
        estimate: made before the work.
        on_stop: called with the number of a first signal.
    """
    loop = asyncio.get_running_loop()
    running: list[Pipeline] = []
    stopped_by: list[int] = []

    async def run_one(pipeline: Pipeline) -> None:
        if stopped_by:
            raise Stopped(stopped_by[0])
        running.append(pipeline)
        try:
            await pipeline.run()
        finally:
            running.remove(pipeline)

    def run(pipeline: Pipeline) -> None:
        asyncio.run_coroutine_threadsafe(run_one(pipeline), loop).result()

    def stop(number: int) -> None:
        stopped_by.append(number)
        on_stop(number)
        for pipeline in running:
            pipeline.stop(number)

    seconds = None if estimate is None else estimate.seconds
    progress = asyncio.create_task(show_progress(flow, total, display, seconds), name="progress")
    with stoppable(lambda number: loop.call_soon_threadsafe(stop, number)):
        try:
            await asyncio.to_thread(work, run)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)


@contextmanager
def stoppable(
    stop: Callable[[int], object], kill: Callable[[], object] = discard_unpublished
) -> Generator[None]:
    """Have a first SIGINT or SIGTERM call `stop`, and a second one exit at once, after `kill`."""
    seen: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if seen:  # threads may hang in a codec or in a read
            kill()
            os._exit(128 + number)
        seen.append(number)
        stop(number)

    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Records how to recognise an output, before the output gets its name."""

    token: str
    """Marks the names of temporary files; see :class:`~upframe.io.files.Owner`."""
    record: Callable[[Report, Sequence[tuple[Path, Path]]], None]
    """Called with the report so far and the renames to come; see there."""


BuildFilters = Callable[[FilterOptions, Runtime], tuple[BuiltFilter, ...]]


def run(
    request: RunRequest,
    display: Display | None = None,
    *,
    announce: bool = True,
    ledger: Ledger | None = None,
    filters: BuildFilters = build_filters,
) -> Report:
    """Run a conversion: plan, load, stream, verify, rename.

    Args:
        request: What to convert.
        display: Shows the progress, if given.
        announce: Whether to log, before the work, what becomes of each stream of the input.
        ledger: Records what will be published, if given.
        filters: Builds the filters, or returns those of an earlier run.

    Raises:
        MediaError: if the input cannot be read or the output cannot be written.
        FilterError: if weights or the device are unavailable, or a frame is too large.
        Stopped: if a signal ended it. In every case nothing is left under the output's name.
    """
    with kept_warnings() as warned, _named_for_users(request):
        return _Conversion(request, display or Display(), announce, ledger, warned)(filters)


def check(request: RunRequest, token: str) -> None:
    """Check what can be known of a conversion before its turn; raises what `run` would.

    Args:
        request: What to convert, by a device that is not asked yet.
        token: As that of the ledger.
    """
    with _named_for_users(request), preflight(request, token=token, announce=False):
        pass


@contextmanager
def _named_for_users(request: RunRequest) -> Generator[None]:
    """Name the sink in errors as users know it."""
    try:
        yield
    except (MediaError, OSError) as error:
        places = (str(request.where.parent), str(Path(request.sink).parent))
        if isinstance(error, OSError):
            error.filename = error.filename and str(error.filename).replace(*places)
        else:
            error.args = tuple(str(text).replace(*places) for text in error.args)
        raise


@dataclass(frozen=True, slots=True)
class _Conversion:
    """One run: its request, and who is told of it."""

    request: RunRequest
    display: Display
    announce: bool
    ledger: Ledger | None
    warned: WarningLog

    def __call__(self, build: BuildFilters) -> Report:
        request, runtime = self.request, self.request.runtime
        options, announce = request.options, self.announce
        self.display.begin("loading")
        with (
            preflight(request, runtime.device, self._token, announce=announce) as checked,
            divided(request, checked, announce=announce) as division,
        ):
            if division is None:
                if runtime.workers or request.crew:
                    log.warning("%s alone makes the film, which is one segment", runtime.device)
                runtime = replace(runtime, workers=())
                filters = build(options.filters, runtime)
                return self._whole(self._prepared(checked, filters, runtime))
            with _threads(division.threads):
                filters = division.build(lambda runtime: build(options.filters, runtime))
                prepared = self._prepared(checked, filters, division.runtime)
                try:
                    return self._in_segments(prepared, division)
                except NotAsPlanned as error:
                    log.warning("%s; the film is made anew in one piece", error)
                    division.remove()
                    about = checked.source.info, filters, options, division.runtime
                    compute = FilmCompute(*about, checked.info.pix_fmt, is_steady=True)
                    return self._whole(replace(prepared, compute=compute))

    @property
    def _token(self) -> str | None:
        return None if self.ledger is None else self.ledger.token

    def _prepared(
        self, checked: Preflight, filters: Sequence[BuiltFilter], runtime: Runtime
    ) -> _Prepared:
        request, options, source = self.request, self.request.options, checked.source
        about = source.info, filters, options, runtime, checked.info.pix_fmt
        compute = FilmCompute(*about, is_steady=True)
        about = source.info, filters, compute, runtime.device
        film = Film(
            request.source, request.sink, *about, options, options.part, runtime.num_at_once
        )
        memory = memory_of(film)
        self.display.keep_memory(memory)
        estimated = None if request.crew else estimate(film, request.estimates)
        if estimated is not None and self.announce:
            log.info("%s; %s", estimated.text(datetime.now().astimezone()), memory.text)
        elif memory.tile is not None and self.announce:
            log.info("%s", memory.text)
        refuse_writer(request.where, self._token)  # which may have begun meanwhile
        return _Prepared(checked, filters, runtime, compute, memory, estimated)

    def _whole(self, prepared: _Prepared) -> Report:
        """Convert the film in one piece, straight into the output."""
        source, compute, display = prepared.checked.source, prepared.compute, self.display

        def report() -> Report:
            lines, counters = (source.losses(), source.warnings()), compute.statistics()
            return self._report(prepared, sink, pipeline.flow, *lines, counters=counters)

        sink = self._opened(open_file_sink, prepared, self._owner(report))
        losses = source.losses if self.request.options.strict_streams else list[str]
        staged = StrictSink(sink, losses, lambda: self.display.begin("publishing"))
        pipeline = Pipeline(source, compute, staged)
        self.display.begin("streaming")
        execute(pipeline, compute.info.num_frames, display, prepared.estimate)
        self._warn(source.warnings())
        return report()

    def _in_segments(self, prepared: _Prepared, division: Division) -> Report:
        """Convert the film in segments, of which an earlier run may have made some."""
        request, info = self.request, prepared.compute.info
        prepared.compute.close()

        def report() -> Report:
            lines = film.lines("losses"), film.lines("warnings")
            known = {"counters": film.counters, "resumed": film.resumed}
            return self._report(prepared, sink, film.flow, *lines, **known)

        with closing(division.plan(prepared.filters)) as plan:
            work = SegmentWork(
                request.source,
                division.segments[0],
                prepared.checked.source.seen,
                request.options,
                info.pix_fmt,
                partial(_open_segment, info, request.options, Path(request.sink)),
                segment_facts,
            )
            film = FilmRun(plan, work, division.source)
            if self.announce:
                log.info("%s", film.resumed.text)
            if (
                owner := self._owner(report)
            ) is None:  # a run that was killed has left the same name
                owner = Owner(OUTPUT_TOKEN, lambda _: None, follows_links=request.place is None)
                discard_partials(request.where, OUTPUT_TOKEN)
            sink = self._opened(open_joined_sink, prepared, owner)
            self.display.begin("streaming")
            crew = _crew(request, work, prepared, division.threads)

            def make_all(run: Execute) -> None:
                here = one_process(prepared.filters, prepared.runtime, run)
                film(sink, crew or here, lambda: self.display.begin("publishing"))

            about = film.flow, info.num_frames, self.display, prepared.estimate
            asyncio.run(_execute_all(make_all, *about, *([] if crew is None else [crew.stop])))
        division.remove()
        self._warn(film.lines("warnings"))
        return report()

    def _warn(self, lines: Sequence[str]) -> None:
        """Log what was noticed of the source, but for what was logged before."""
        for message in lines:
            if message not in self.warned.messages:
                log.warning("%s", message)

    def _owner(self, report: Callable[[], Report]) -> Owner | None:
        """Return what the sink asks, which knows no report."""
        if (ledger := self.ledger) is None:
            return None
        record = ledger.record
        follows = self.request.place is None
        return Owner(ledger.token, lambda renames: record(report(), renames), follows_links=follows)

    def _opened(
        self, open_sink: Callable[..., AnySink], prepared: _Prepared, owner: Owner | None
    ) -> AnySink:
        request, checked, info = self.request, prepared.checked, prepared.compute.info
        return open_sink(
            request.where,
            info,
            request.options.encoder,
            plan=checked.plan,
            overwrite=request.options.overwrite,
            format=request.options.container,
            owner=owner,
            trial=checked.trial if info == checked.info else None,
        )

    def _report(
        self,
        prepared: _Prepared,
        sink: FileSink | ImageSink | JoinedSink,
        flow: Flow,
        losses: Sequence[str],
        warnings: Sequence[str],
        **known: Any,
    ) -> Report:
        checked = prepared.checked
        about = checked.source.info, sink.info, prepared.runtime, prepared.filters
        return make_report(
            flow,
            *about,
            source=str(self.request.source),
            sink=self.request.sink,
            estimate=prepared.estimate,
            memory=prepared.memory,
            streams=checked.plan.lines(),
            losses=[*checked.losses, *sink.losses(), *losses],
            warnings=[*self.warned.messages, *warnings],
            **known,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A conversion whose filters are built."""

    checked: Preflight
    filters: Sequence[BuiltFilter]
    runtime: Runtime
    compute: Compute
    memory: Memory
    estimate: Estimate | None


def _open_segment(
    info: StreamInfo, options: ConversionOptions, target: Path, path: Path, final: bool
) -> FileSink:
    about = info, options.encoder
    return open_segment_sink(path, *about, target=target, format=options.container, final=final)


def _crew(request: RunRequest, work: SegmentWork, prepared: _Prepared, threads: int) -> Crew | None:
    """Return what makes a film on several devices or machines; None for one device."""
    runtime = prepared.runtime
    if not runtime.workers and request.crew is None:
        return None
    if runtime.device.type == "cuda":
        torch.cuda.empty_cache()  # of the estimate
    ways = {each.name: each.way for each in prepared.filters if each.way is not None}
    weights = {each.name: each.weights.sha256 for each in prepared.filters if each.weights}
    number, estimate, info = len(runtime.workers), prepared.estimate, prepared.checked.source.info
    each = estimate and info.num_frames and estimate.seconds * number / info.num_frames
    setup = Setup(
        work, replace(runtime, ways=ways), threads, current_rules(), weights,
        memory_share=number or 1, estimate=each or None,
    )  # fmt: skip
    return Crew(setup, runtime.workers) if request.crew is None else request.crew(setup)


@contextmanager
def _threads(number: int) -> Generator[None]:
    """Compute with so many threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
