"""One conversion: plan, load, stream, verify, publish. The command `run` and every job do this."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.device import Runtime
from ...filters.frame import Picture, StreamInfo
from ...filters.options import FilterOptions
from ...io.errors import MediaError, VerificationFailed
from ...io.files import Owner, discard_unpublished, refuse_writer
from ...io.media import Sink
from ...io.root import ConfinedFile
from ...io.sink import open_file_sink
from ..specification import ConversionOptions, MediaOptions, Stage
from .compute import Compute
from .estimate import Estimate, Film, Limits, estimate
from .memory import Memory, memory_of
from .pipeline import Flow, Pipeline
from .preflight import Asked, preflight
from .progress import Display, Silent, show_progress
from .report import Report, WarningLog, kept_warnings, make_report

log = logging.getLogger("upframe.run")


def execute(
    pipeline: Pipeline, total: int | None, display: Display, estimate: Estimate | None = None
) -> Flow:
    """Run a pipeline in this process. A first SIGINT or SIGTERM stops it, a second kills it.

    Raises:
        Stopped: after a first signal.
        MediaError, FilterError: whatever ended the work early.
    """
    seconds = None if estimate is None else estimate.seconds
    return asyncio.run(_execute(pipeline, total, display, seconds))


async def _execute(
    pipeline: Pipeline, total: int | None, display: Display, estimate: float | None
) -> Flow:
    loop = asyncio.get_running_loop()
    shown = show_progress(pipeline.flow, total, display, estimate)
    progress = asyncio.create_task(shown, name="progress")
    with stoppable(lambda number: loop.call_soon_threadsafe(pipeline.stop, number)):
        try:
            return await pipeline.run()
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
class RunRequest:
    """What one run does, with the names by which this machine reaches input and output."""

    source: str | ConfinedFile
    sink: str
    options: ConversionOptions
    runtime: Runtime
    place: Path | None = None
    """Path to the sink, as from `opened_place`; None: its name."""
    estimates: Limits = field(default_factory=Limits)
    """For which work the time is estimated before."""

    @property
    def where(self) -> Path:
        """The path by which to write the sink."""
        return self.place or Path(self.sink)

    def asked(self, token: str | None) -> Asked:
        """Return what preflight asks, with the mark of the output's owner."""
        return Asked(self.source, self.sink, self.where, self.options, token)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Records how to recognise an output, before the output gets its name."""

    token: str
    """Marks the names of temporary files; see :class:`~upframe.io.files.Owner`."""
    record: Callable[[Report, Sequence[tuple[Path, Path]]], None]
    """Called with the report so far and the renames to come; see there."""

    def owner(self, report: Callable[[], Report], *, follows_links: bool) -> Owner:
        """Return what the sink asks, which knows no report."""
        return Owner(self.token, lambda renames: self.record(report(), renames), follows_links)


BuildFilters = Callable[[FilterOptions, Runtime], tuple[BuiltFilter, ...]]


def run(
    request: RunRequest,
    display: Display | None = None,
    *,
    announce: bool = True,
    ledger: Ledger | None = None,
    filters: BuildFilters = build_filters,
    on_stage: Callable[[Stage], None] = lambda _: None,
    on_memory: Callable[[Memory], None] = lambda _: None,
) -> Report:
    """Run a conversion: plan, load, stream, verify, rename.

    Args:
        request: What to convert.
        display: Shows the progress, if given.
        announce: Whether to log, before the work, what becomes of each stream of the input.
        ledger: Records what will be published, if given.
        filters: Builds the filters, or returns those of an earlier run.
        on_stage: Called at the start of each stage, from any thread.
        on_memory: Called with the memory that it needs, before the output is opened.

    Raises:
        MediaError: if the input cannot be read or the output cannot be written.
        FilterError: if weights or the device are unavailable, or a frame is too large.
        Stopped: if a signal ended it. In every case nothing is left under the output's name.
    """
    with kept_warnings() as warned, _named_for_users(request):
        stages = on_stage, on_memory
        return _run(request, display, announce, ledger, filters, *stages, warned)


def check(request: RunRequest, token: str) -> None:
    """Check what can be known of a conversion before its turn; raises what `run` would.

    Args:
        request: What to convert, by a device that is not asked yet.
        token: As that of the ledger.
    """
    with _named_for_users(request), preflight(request.asked(token), announce=False):
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


def _run(
    request: RunRequest,
    display: Display | None,
    announce: bool,
    ledger: Ledger | None,
    build: BuildFilters,
    on_stage: Callable[[Stage], None],
    on_memory: Callable[[Memory], None],
    warned: WarningLog,
) -> Report:
    options, runtime = request.options, request.runtime
    on_stage("loading")
    token = None if ledger is None else ledger.token
    with preflight(request.asked(token), runtime.device, announce=announce) as checked:
        source, plan, known = checked.source, checked.plan, checked.losses
        filters = build(options.filters, runtime)
        compute = compute_of(source.info, filters, options, runtime, checked.info.pix_fmt)
        about = source.info, filters, compute, runtime.device
        film = Film(request.source, request.sink, *about, options, options.part)
        memory = memory_of(film)
        on_memory(memory)
        estimated = _estimate(film, request.estimates, memory, announce=announce)

        def report() -> Report:
            return make_report(
                source=str(request.source),
                sink=request.sink,
                flow=pipeline.flow,
                counters=compute.statistics(),
                incoming=source.info,
                outgoing=sink.info,
                runtime=runtime,
                filters=filters,
                estimate=estimated,
                memory=memory,
                streams=plan.lines(),
                losses=[*known, *sink.losses(), *source.losses()],
                warnings=[*warned.messages, *source.warnings()],
            )

        refuse_writer(request.where, token)  # which may have begun meanwhile
        sink = open_file_sink(
            request.where,
            compute.info,
            options.encoder,
            plan=plan,
            overwrite=options.overwrite,
            format=options.container,
            owner=ledger and ledger.owner(report, follows_links=request.place is None),
            trial=checked.trial if compute.info == checked.info else None,
        )
        staged = _StagedSink(sink, on_stage, source.losses if options.strict_streams else list)
        pipeline = Pipeline(source, compute, staged)
        on_stage("streaming")
        execute(pipeline, compute.info.num_frames, display or Silent(), estimated)
        for message in source.warnings():
            if message not in warned.messages:
                log.warning("%s", message)
        return report()


def _estimate(film: Film, limits: Limits, memory: Memory, *, announce: bool) -> Estimate | None:
    """Estimate a long work, and log that and the memory."""
    made = estimate(film, limits)
    if made is not None and announce:
        log.info("%s; %s", made.text(datetime.now().astimezone()), memory.text)
    elif memory.tile is not None and announce:
        log.info("%s", memory.text)
    return made


def compute_of(
    info: StreamInfo,
    filters: Sequence[BuiltFilter],
    options: MediaOptions,
    runtime: Runtime,
    pix_fmt: str,
) -> Compute:
    """Make the compute stage of a file or pipe, whose output has a pixel format."""
    return Compute(
        info,
        {"full": Chain(built.filter for built in filters)},
        pix_fmt=pix_fmt,
        device=runtime.device,
        detect_cuts=options.filters.detects_cuts,
    )


class _StagedSink:
    """A sink that reports when its last stage begins: draining, completing, checking.

    Args:
        sink: Does the work.
        on_stage: Called at the start of that stage.
        losses: Returns what must not be lost and was, by the end.
    """

    def __init__(
        self, sink: Sink, on_stage: Callable[[Stage], None], losses: Callable[[], list[str]]
    ) -> None:
        self._sink = sink
        self._on_stage = on_stage
        self._losses = losses

    def write(self, picture: Picture) -> None:
        self._sink.write(picture)

    def finish(self) -> None:
        self._on_stage("publishing")
        if lost := self._losses():
            raise VerificationFailed(f"--strict-streams: {'; '.join(lost)}")
        self._sink.finish()

    def abort(self) -> None:
        self._sink.abort()
