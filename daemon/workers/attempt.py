"""What a worker does: runs jobs on filters that stay built, and probes files."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.device import Runtime, resolve_runtime
from ...filters.frame import Frame, StreamInfo
from ...filters.options import FilterOptions, Policy
from ...io.errors import MediaError, SinkRefused, SourceMissing, TruncatedMedia, UnsupportedMedia
from ...io.extent import promised_bytes
from ...io.redaction import redacted_values
from ...io.root import Root, by_descriptor, opened_place, opened_source
from ...io.source import open_source
from ...io.web import NetworkRules, network_rules
from ..convert.conversion import Ledger, check, run
from ..convert.crew import ClusterCrew
from ..convert.memory import Memory
from ..convert.preflight import Keep, RunRequest
from ..convert.progress import Display, Snapshot
from ..convert.report import Report, device_name, kept_warnings
from ..jobs.model import Confinement, ProbeVerdict, partial_token
from ..specification import ConversionSpec, Stage
from .channel import WorkerChannel
from .ledger import Result, Results
from .messages import (
    Checked,
    CheckJob,
    Event,
    JobDone,
    Probed,
    ProbeFile,
    Progressed,
    Request,
    RunJob,
    Warm,
    Warmed,
)
from .ray import connect

log = logging.getLogger("upframe.work")


# Filters stay built from job to job: weights are loaded once, and a network is warmed up once.

_MOST_KEPT = 4
"""Sets of filters: few settings are in use at once, and each holds its networks in memory."""
_WIDTH, _HEIGHT = 64, 48
_TIME_BASE = Fraction(1, 25)

Signature = tuple[tuple[int, int, int], ...]
"""Inode, size and time of every file of weights."""


@dataclass(frozen=True, slots=True)
class _Kept:
    filters: tuple[BuiltFilter, ...]
    signature: Signature | None
    warnings: tuple[str, ...]
    """Logged while building; they hold for every job that uses the filters."""


class WarmFilters:
    """Builds filters as :func:`build_filters` does, or returns those that it built before.

    Every job opens them again, so jobs must run one after the other.
    """

    def __init__(self, most_kept: int = _MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._kept: OrderedDict[tuple[FilterOptions, Runtime], _Kept] = OrderedDict()

    def __call__(self, options: FilterOptions, runtime: Runtime) -> tuple[BuiltFilter, ...]:
        """Return the filters that the options enable.

        Raises:
            CheckpointRejected, WeightsUnavailable: as building does.
        """
        kept = self._kept.pop((options, runtime), None)
        if kept is None or kept.signature is None or _signature_of(kept.filters) != kept.signature:
            kept = _build(options, runtime)
        else:
            for text in kept.warnings:
                log.warning("%s", text)
        self._kept[options, runtime] = kept
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return kept.filters

    def warm_up(self, options: FilterOptions, runtime: Runtime) -> None:
        """Build filters and pass two small frames through them.

        Raises:
            CheckpointRejected, WeightsUnavailable: as building does.
            FilterError: if a network does not work here.
        """
        chain = Chain(tuple(built.filter for built in self(options, runtime)))
        chain.open(StreamInfo(_WIDTH, _HEIGHT, "yuv420p", _TIME_BASE))
        with torch.inference_mode():
            for index in range(2):
                for _ in chain(_frame(index, runtime.device)):
                    pass
            for _ in chain.flush():
                pass


def _frame(index: int, device: torch.device) -> Frame:
    row = torch.linspace(0, 1 - 0.2 * index, _WIDTH, device=device)
    pixels = row.expand(3, _HEIGHT, _WIDTH).contiguous()
    return Frame(pixels, pts=index, duration=1, time_base=_TIME_BASE)


def _build(options: FilterOptions, runtime: Runtime) -> _Kept:
    with kept_warnings() as warned:
        filters = build_filters(options, runtime)
    return _Kept(filters, _signature_of(filters), tuple(warned.messages))


def _signature_of(filters: Sequence[BuiltFilter]) -> Signature | None:
    """Return the present state of the files of weights; None if one is missing."""
    try:
        found = [built.weights.path.stat() for built in filters if built.weights is not None]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


@dataclass(frozen=True, slots=True)
class AttemptSettings:
    """What a worker computes with, and where its ledger is."""

    results: Path
    device: str
    precision: str
    weights: Policy
    threads: int | None
    cluster: Path | None = None
    """Socket of its driver."""


class JobRunner:
    """Answers the requests of a worker that runs jobs.

    Raises:
        DeviceUnavailable: if there is no such device.
    """

    def __init__(self, channel: WorkerChannel, settings: AttemptSettings) -> None:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.runtime = resolve_runtime(settings.device, settings.precision, settings.weights)
        self._channel = channel
        self._filters = WarmFilters()
        self._results = Results(settings.results)
        driver = settings.cluster and partial(connect, settings.cluster)
        self._crew = driver and partial(ClusterCrew, connect=driver)
        given = {"device": settings.device, "precision": settings.precision}
        self._asked = frozenset(name for name, value in given.items() if value != "auto")

    @property
    def device_name(self) -> str:
        """The device, as people know it."""
        return device_name(self.runtime.device)

    def __call__(self, request: Request) -> Event:
        """Answer a request.

        Raises:
            Exception: whatever ends the attempt.
        """
        if isinstance(request, Warm):
            began = monotonic()
            self._filters.warm_up(request.filters, self.runtime)
            return Warmed(seconds=monotonic() - began)
        if isinstance(request, RunJob):
            hosts, most = None, None
            if (limits := request.limits) is not None:
                hosts, most = limits.hosts, limits.model_mebibytes << 20
            runtime = replace(self.runtime, most_bytes=most)
            with network_rules(NetworkRules(hosts=hosts)):
                report = self._run(request.id, request.work, request.confined, runtime)
            return JobDone(report=_public(report))
        raise TypeError(f"this worker runs jobs, got {request.kind!r}")

    def _run(
        self, job_id: str, work: ConversionSpec, confined: Confinement | None, runtime: Runtime
    ) -> Report:
        def record(report: Report, renames: Sequence[tuple[Path, Path]]) -> None:
            result = Result.of(job_id, work.digest, renames, _public(report))
            self._results.write(result.moved(request.where.parent, Path(work.sink).parent))

        progress = ProgressReporter(self._channel)
        with ExitStack() as opened:
            keep = Keep(self._results.segments_of(job_id), asked=self._asked)
            about = work.source, work.sink, work, runtime
            request = RunRequest(*about, keep=keep, crew=self._crew)
            if confined is not None:
                request = confined_request(request, confined, opened)
            return run(
                request,
                progress,
                announce=False,  # the report has it
                ledger=Ledger(partial_token(job_id), record),
                filters=self._filters,
            )


class ProgressReporter(Display):
    """Sends the progress of a job: at each new stage, and twice a second while frames flow."""

    interval_seconds = 0.5

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._last = Progressed(stage="loading")

    def begin(self, stage: Stage) -> None:
        """Send a new stage."""
        self._last = self._last.model_copy(update={"stage": stage})
        self._channel.send(self._last)

    def keep_memory(self, memory: Memory) -> None:
        """Send what the job needs of memory with the next message, and all after it."""
        self._last = self._last.model_copy(update={"memory": memory.text})

    def show(self, snapshot: Snapshot, *, ended: bool) -> None:
        """Send one snapshot."""
        names = ("frames_in", "frames_out", "total", "eta_seconds", "estimate_seconds", "waits")
        values = {name: getattr(snapshot, name) for name in names}
        self._last = self._last.model_copy(update=values | {"fps": round(snapshot.fps, 3)})
        self._channel.send(self._last)


def confined_request(request: RunRequest, to: Confinement, opened: ExitStack) -> RunRequest:
    """Open the source and the folder of the sink, each below its root, for the run."""
    source, place = request.source, None
    if to.source is not None:
        name = source if to.path is None else to.path
        source = opened.enter_context(opened_source(str(name), to.source, to.accepted))
    if to.sink is not None:
        try:
            place = opened.enter_context(opened_place(to.sink, Path(request.sink)))
        except OSError as error:
            raise SinkRefused(f"{request.sink}: {error.strerror or error}") from error
    return replace(request, source=source, place=place)


def _public(report: Report) -> dict[str, Any]:
    """Return a report as JSON values, without the passwords of URLs."""
    values = redacted_values(report.model_dump(mode="json", by_alias=True))
    return cast("dict[str, Any]", values)


# Whether a file is video, found out in a process of its own, since a damaged file may crash it.
#
# A file that is still arriving is empty or begins with a block of zeros (space that was reserved),
# is too short for its kind, or its container announces more bytes than are there. Any other one
# that cannot be decoded will never be video.

_HEAD_BYTES = 4096


def answer_probe(request: Request) -> Event:
    """Answer a request to probe a file.

    Raises:
        TypeError: for any other request.
    """
    if isinstance(request, CheckJob):
        check_job(request)
        return Checked()
    if not isinstance(request, ProbeFile):
        raise TypeError(f"this worker only probes, got {request.kind!r}")
    return Probed(verdict=probe_file(request.path, request.root))


def check_job(job: CheckJob) -> None:
    """Check a job before its turn as its attempt will, which then logs what is to be said.

    Raises:
        Exception: what would end its attempt, unless its source may still come.
    """
    hosts = None if job.limits is None else job.limits.hosts
    run = RunRequest(job.work.source, job.work.sink, job.work)
    logging.disable(logging.WARNING)
    try:
        with ExitStack() as opened, network_rules(NetworkRules(hosts=hosts)):
            if job.confined is not None:
                run = confined_request(run, job.confined, opened)
            check(run, partial_token(job.id))
    except (SourceMissing, TruncatedMedia, UnsupportedMedia) as error:
        incomplete = isinstance(error, SourceMissing | TruncatedMedia) or _is_unfinished(job)
        if not (job.may_come and incomplete):
            raise
    finally:
        logging.disable(logging.NOTSET)


def _is_unfinished(job: CheckJob) -> bool:
    path, root = job.work.source, None
    if job.confined is not None:
        path, root = str(job.confined.path or path), job.confined.source
    return "://" not in path and probe_file(path, root).kind == "unfinished"


def probe_file(path: str, root: Root | None = None) -> ProbeVerdict:
    """Open a file, below a root if there is one, and decode its first frame."""
    held, source = Path(path), path
    with ExitStack() as opened:
        try:
            if root is not None:
                source = opened.enter_context(opened_source(path, root, None))
                held = by_descriptor(-1 if source.descriptor is None else source.descriptor)
            with closing(open_source(source)) as looked_at:
                if next(islice(looked_at, 1), None) is None:
                    raise UnsupportedMedia(f"{path}: holds no frame")
                info = looked_at.info
            found = ProbeVerdict(
                kind="video", message=f"{path}: {info.width}x{info.height} {info.pix_fmt}"
            )
        except (TruncatedMedia, SourceMissing) as error:
            return ProbeVerdict(kind="unfinished", message=str(error))
        except MediaError as error:
            ended_early = isinstance(error.__cause__, EOFError)  # too short to distinguish
            kind = "unfinished" if ended_early or _is_blank(held) else "refused"
            found = ProbeVerdict(kind=kind, message=str(error))
        if found.kind == "unfinished":
            return found
        size, announced = held.stat().st_size, promised_bytes(held)
        if announced is not None and announced > size:
            text = f"{path}: {size} bytes are there, wanted {announced}"
            return ProbeVerdict(kind="unfinished", message=text)
        return found


def _is_blank(path: Path) -> bool:
    """Whether a file is empty, or begins with zeros only: reserved, and not written yet."""
    try:
        with path.open("rb") as file:
            return not any(file.read(_HEAD_BYTES))
    except OSError:
        return False
