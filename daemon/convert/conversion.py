"""One conversion: plan, load, stream, verify, publish. The command `run` and every job do this."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.device import Runtime
from ...filters.frame import Picture, StreamInfo
from ...filters.options import FilterOptions
from ...io.decode.hardware import Hardware
from ...io.encode.encoder import output_pix_fmt
from ...io.errors import MediaError
from ...io.files import Owner, refuse_same_file
from ...io.media import Sink
from ...io.root import ConfinedFile, by_descriptor
from ...io.sink import open_file_sink
from ...io.source import ContainerSource, open_source
from ...io.streams.plan import StreamPlan, plan_streams
from ..specification import ConversionOptions, Stage
from .compute import Compute
from .pipeline import Flow, Pipeline
from .progress import Display, Silent, show_progress
from .report import Report, WarningLog, kept_warnings, make_report

log = logging.getLogger("upframe.run")


# Runs one pipeline in this process: the event loop, the signals, the progress.


def execute(pipeline: Pipeline, total: int | None, display: Display) -> Flow:
    """Run a pipeline to its end. The first SIGINT or SIGTERM ends it in order, a second at once.

    Raises:
        Stopped: after a first signal.
        MediaError, FilterError: whatever ended the work early.
    """
    return asyncio.run(_execute(pipeline, total, display))


async def _execute(pipeline: Pipeline, total: int | None, display: Display) -> Flow:
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        if seen:  # no second thoughts: threads may hang in a codec or in a read
            os._exit(128 + number)
        seen.append(number)
        pipeline.stop(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, on_signal, int(number))
    progress = asyncio.create_task(show_progress(pipeline.flow, total, display), name="progress")
    try:
        return await pipeline.run()
    finally:
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # the loop leaves the default, not what it found


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What one run does, with the names by which this machine reaches input and output."""

    source: str | ConfinedFile
    sink: str
    options: ConversionOptions
    runtime: Runtime
    place: Path | None = None
    """By which the sink is reached, as from `opened_place`; None: by its name."""

    @property
    def where(self) -> Path:
        """By which path to act on the sink."""
        return self.place or Path(self.sink)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Who keeps, before the output gets its name, what is needed to know it again."""

    token: str
    """Marks the names of temporary files; see :class:`~upframe.io.files.Owner`."""
    record: Callable[[Report, Sequence[tuple[Path, Path]]], None]
    """Called with the report as it stands and the renames to come; see there."""


def _ignore_stage(_: Stage) -> None:
    pass


def run(
    request: RunRequest,
    display: Display | None = None,
    *,
    announce: bool = True,
    ledger: Ledger | None = None,
    filters: Callable[[FilterOptions, Runtime], tuple[BuiltFilter, ...]] = build_filters,
    on_stage: Callable[[Stage], None] = _ignore_stage,
) -> Report:
    """Do one piece of work: plan, load, stream, verify, rename.

    Args:
        request: What to do.
        display: Shows the progress; None: nobody does.
        announce: Whether to log, before the work, what becomes of each stream of the input.
        ledger: Notes what will be published; None: nobody does.
        filters: Builds the filters, or gives those that it has kept from a run before.
        on_stage: Called at the begin of each stage, from any thread.

    Raises:
        MediaError: if the input cannot be read or the output not be made.
        FilterError: if weights or the device are not to be had, or a frame is too large.
        Stopped: if a signal ended it. In every case nothing is left under the output's name.
    """
    with kept_warnings() as warned:
        work = _Work(request, warned, ledger, on_stage)
        try:
            return work.run(display or Silent(), filters, announce=announce)
        except (MediaError, OSError) as error:
            # people know the sink by its name
            places = (str(request.where.parent), str(Path(request.sink).parent))
            if isinstance(error, OSError):
                error.filename = error.filename and str(error.filename).replace(*places)
            else:
                error.args = tuple(str(text).replace(*places) for text in error.args)
            raise


class _Staged:
    """A sink that says when its last part begins: draining, completing, checking."""

    def __init__(self, sink: Sink, on_stage: Callable[[Stage], None]) -> None:
        self._sink = sink
        self._on_stage = on_stage

    def write(self, picture: Picture) -> None:
        self._sink.write(picture)

    def finish(self) -> None:
        self._on_stage("publishing")
        self._sink.finish()

    def abort(self) -> None:
        self._sink.abort()


class _Work:
    """One run, with what its report is made from."""

    def __init__(
        self,
        request: RunRequest,
        warned: WarningLog,
        ledger: Ledger | None,
        on_stage: Callable[[Stage], None],
    ) -> None:
        self._request = request
        self._warned = warned
        self._ledger = ledger
        self._on_stage = on_stage

    def run(
        self,
        display: Display,
        build: Callable[[FilterOptions, Runtime], tuple[BuiltFilter, ...]],
        *,
        announce: bool,
    ) -> Report:
        """Plan, load, stream, complete; raises as :func:`run` does."""
        request, options = self._request, self._request.options
        self._on_stage("loading")
        source = request.source
        held = source.descriptor if isinstance(source, ConfinedFile) else None
        refuse_same_file(str(source) if held is None else by_descriptor(held), request.where)
        plan = plan_streams(
            request.source, request.sink, options.container, strict=options.strict_streams
        )
        _tell(plan, announce=announce)
        source = open_source(
            request.source,
            deinterlace=options.deinterlace,
            framerate=options.rate,
            hardware=Hardware(options.hwaccel, request.runtime.device),
        )
        with closing(source):
            # before the weights are loaded: what cannot be encoded fails at once
            pix_fmt = output_pix_fmt(source.info, options.encoder, request.sink, options.container)
            filters = build(options.filters, request.runtime)
            compute = self._compute(source.info, filters, pix_fmt)
            sink = self._sink(compute.info, plan, lambda: report())
            staged = _Staged(sink, self._on_stage)
            pipeline = Pipeline(source, compute, staged)

            def report() -> Report:
                return self._report(pipeline.flow, source, compute, filters, plan)

            self._on_stage("streaming")
            execute(pipeline, compute.info.num_frames, display)
            for message in source.warnings():
                log.warning("%s", message)
            return report()

    def _compute(self, info: StreamInfo, filters: Sequence[BuiltFilter], pix_fmt: str) -> Compute:
        request = self._request
        return Compute(
            info,
            {"full": Chain(built.filter for built in filters)},
            pix_fmt=pix_fmt,
            device=request.runtime.device,
            detect_cuts=request.options.filters.detects_cuts,
        )

    def _sink(self, info: StreamInfo, plan: StreamPlan, report: Callable[[], Report]) -> Sink:
        request, ledger = self._request, self._ledger
        owner = None
        if ledger is not None:
            owner = Owner(
                ledger.token,
                lambda renames: ledger.record(report(), renames),
                follows_links=request.place is None,
            )
        return open_file_sink(
            request.where,
            info,
            request.options.encoder,
            plan=plan,
            overwrite=request.options.overwrite,
            format=request.options.container,
            owner=owner,
        )

    def _report(
        self,
        flow: Flow,
        source: ContainerSource,
        compute: Compute,
        filters: Sequence[BuiltFilter],
        plan: StreamPlan,
    ) -> Report:
        return make_report(
            source=str(self._request.source),
            sink=self._request.sink,
            flow=flow,
            counters=compute.statistics(),
            incoming=source.info,
            outgoing=compute.info,
            runtime=self._request.runtime,
            filters=filters,
            streams=plan.lines(),
            warnings=[*self._warned.messages, *source.warnings()],
        )


def _tell(plan: StreamPlan, *, announce: bool) -> None:
    for line in plan.lines() if announce else ():
        log.info("%s", line)
    for line in plan.warnings:
        log.warning("%s", line)
