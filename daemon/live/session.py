"""One live stream in one process, from its first connection to its end, perhaps months later.

The thread that called `run` supervises all others: the input's reader, the compute and output
threads, and the publisher with its child process. It alone decides; the others do their part and
call `changed` when there is news.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from pydantic import Field

from ...filters.chain import BuiltFilter
from ...io.child import rss_bytes_of
from ...io.errors import InputLost, SourceMissing, UnsupportedMedia
from ...io.files import refuse_same_file
from ...io.live.address import AddressMemory, find_address, is_live, with_credentials
from ...io.live.live_input import ConnectedInput, LiveInput, PacedFile
from ...io.live.target import LiveTarget, find_live_target
from ...io.redaction import redacted, redacted_target
from ..convert.report import (
    WarningLog,
    WeightsReport,
    WrittenReport,
    device_name,
    kept_warnings,
    weights_of,
)
from ..errors import Hung, Stopped
from .compute_stage import SessionContext
from .governor import shortfall
from .input import CONNECT_SECONDS, FrameIngest, InputSupervisor, MakeSource
from .live_pipeline import LivePipeline, LiveRequest, description_of, prepare
from .status import LiveStatus, StallDetector

log = logging.getLogger("upframe.live")

T = TypeVar("T")
_COMPLETING = "the output is being completed"


class LiveReport(WrittenReport, frozen=True):
    """What `--report FILE` writes of a live run."""

    schema_name: Literal["upframe.live-report/1"] = Field("upframe.live-report/1", alias="schema")
    version: str
    name: str
    input: dict[str, Any]
    output: dict[str, Any]
    ended_by: str = Field(description="Why the run ended.")
    seconds: float = Field(description="Length of the output.")
    counts: dict[str, int]
    reconnects: dict[str, int] = Field(description="Reconnections of the input, by reason.")
    connections: int = Field(description="Connections of the output.")
    written: int = Field(description="Pictures that the receiver, or the file, has accepted.")
    dropped: dict[str, int] = Field(description="Pictures that were encoded and not written.")
    delay_seconds: dict[str, float] = Field(description="p50, p99 and max of the whole run.")
    levels: list[tuple[float, str, str]] = Field(
        description="Changes of the level: seconds since the start, name, reason."
    )
    files: list[str]
    device: str
    precision: str
    weights: list[WeightsReport]
    warnings: list[str]

    @property
    def summary(self) -> str:
        """One line for people."""
        late = self.delay_seconds.get("p99")
        delay = "" if late is None else f", delay {late:.2f} s at the 99th percentile"
        return (
            f"{self.output.get('url', '')}: {self.written} frames written in "
            f"{self.seconds:.1f} s{delay}, {self.counts.get('frames_dropped', 0)} dropped; "
            f"{self.ended_by}"
        )


def _input_url(request: LiveRequest) -> str:
    """Return the input's URL with its credentials; a path as it is."""
    spec = request.spec
    if spec.credentials_file is None or "://" not in spec.input:
        return spec.input
    return with_credentials(spec.input, spec.credentials_file)


def source_maker(request: LiveRequest, now: Callable[[], float], *, is_file: bool) -> MakeSource:
    """Return what makes each connection of the input."""
    spec = request.spec
    locate = partial(
        find_address,
        spec.input,
        transport=spec.rtsp_transport,
        credentials_file=spec.credentials_file,
        connect_seconds=CONNECT_SECONDS,
        remembered=AddressMemory(),
    )

    def make(read_seconds: float | None) -> ConnectedInput:
        if is_file:
            return PacedFile(_input_url(request), now=now, sound=spec.sound)
        address = locate()  # reads the credentials again: they may have changed
        if read_seconds is not None and read_seconds > address.read_seconds:
            address = locate(read_seconds=read_seconds)
        return LiveInput(address, now=now, sound=spec.sound)

    return make


def find_target(request: LiveRequest) -> LiveTarget:
    """Find out where the output goes, without connecting.

    Raises:
        SinkRefused: if it cannot be written.
        SourceMissing: if its credentials cannot be read.
    """
    spec = request.spec
    target = find_live_target(
        spec.output,
        format=spec.container,
        segment_seconds=spec.segment_seconds,
        credentials_file=spec.output_credentials_file,
        overwrite=request.overwrite,
        numbered=request.numbered,
    )
    return replace(target, keep_days=spec.keep_days, keep_gibibytes=spec.keep_gibibytes)


def _rss_of_family(pid: int) -> int:
    """Sum the resident memory of a process and all its descendants."""
    return rss_bytes_of(pid) + sum(_rss_of_family(child) for child in children_of(pid))


def children_of(pid: int) -> Iterator[int]:
    """Yield the children of a process that are not reaped."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from (int(word) for word in path.read_text().split())
        except OSError:  # the thread has ended meanwhile
            continue


def _now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


STATUS_SECONDS = 1.0
"""Longest time from one status to the next."""
_DRAIN_SECONDS = 30.0
"""For each thread to pass on what it has, at the end."""
_PREPARED_SECONDS = 5.0
"""For weights from the disk, at the end; a download is abandoned."""
_FINISH_URL_SECONDS = 10.0
_FINISH_FILE_SECONDS = 900.0
"""Verifying a recording of days reads all of it."""
_LOOK_SECONDS = 0.25
_HOPELESS = ("not-found", "unauthorised", "untrusted", "unsupported")
"""Reasons for which a first connection may end the session."""


@dataclass(eq=False)
class LiveSession:
    """Runs one live stream: `run` in one thread; all else is thread-safe."""

    request: LiveRequest
    """What to read, what to do with it, where to publish."""
    _: KW_ONLY
    now: Callable[[], float] = time.monotonic
    """Monotonic seconds, perhaps of a faster clock."""
    speed: float = 1.0
    """How many of them pass in a real second."""
    on_status: Callable[[LiveStatus], None] | None = None
    """Called by the thread of `run` on each change and every second."""
    make_input: MakeSource | None = None
    """Makes the source of each connection; None: by the request's address."""
    still_seconds: float | None = None
    """Without a new picture, while frames come in, after which the session ends; ten times as long
    before the first one. None: a supervisor watches over that."""

    def __post_init__(self) -> None:
        self._detector, self._watched_seconds = StallDetector(), 0.0
        self._hung = ""
        """How the work stands still; empty while it does not."""
        spec, now = self.request.spec, self.now
        self._wake: SimpleQueue[None] = SimpleQueue()  # its put is safe in a signal handler
        self._ingest = FrameIngest(wants_sound=spec.sound, now=now, changed=self._changed)
        self._input = InputSupervisor(
            self._make_source,
            self._ingest,
            now=now,
            changed=self._changed,
            stall_seconds=spec.stall_seconds,
            is_last=self._is_last,
        )
        self._is_file = False
        self._target: LiveTarget | None = None
        self._prepared: Future[tuple[BuiltFilter, ...]] | None = None
        self._starting: Future[LivePipeline] | None = None
        self._loaders: list[threading.Thread] = []
        self._is_completing = self._has_warned = False
        self._warned = WarningLog()
        self._ended_by: str | None = None
        self._stopped_by: int | None = None
        self._began = now()
        self._since = _now_utc()
        self._reported: LiveStatus | None = None
        self._reported_at = -1e9

    def run(self) -> LiveReport:
        """Run until `stop` is called, or to the end of the output's duration.

        Raises:
            MediaError: if the output cannot be written, or the input can never be read.
            FilterError: if weights or the device are not available, or memory is too small.
            UsageError: for an unknown level.
            Stopped: if a signal came before anything could be written.
            Hung: if no new picture goes out; what was written before is complete.
        """
        with kept_warnings() as self._warned:
            try:
                self._began = self.now()
                self._open()
                while self._ended_by is None:
                    wait = self._input.tick()
                    self._check_input()
                    self._check_output()
                    self._report_status()
                    self._sleep(min(wait, _LOOK_SECONDS))
                return self._complete()
            finally:
                self._drop()

    def stop(self, number: int | None = None) -> None:
        """End the stream and complete its output; also from a signal handler, with its number."""
        if self._ended_by is None:
            self._stopped_by = number
            self._ended_by = "stopped" if number is None else f"stopped by signal {number}"
        self._wake.put(None)

    def status(self) -> LiveStatus:
        """Return the state of the stream."""
        source, spec, form = self._input, self.request.spec, self._input.form
        sound = None if form is None or form.sound is None else "copied"
        known = {} if form is None else description_of(form.info, form.codec, sound)
        counts = Counter(source.counts())
        counts.update(self._ingest.counts())
        status = LiveStatus(
            name=spec.name,
            state=source.state,
            since=self._since,
            reason=source.reason,
            message=_COMPLETING if self._is_completing else source.message,
            input={"url": redacted(spec.input), **known},
            output={"url": redacted_target(spec.output)},
            showing="nothing",
            counts=dict(counts),
            reconnects=dict(source.reconnects),
            last_frame_age_seconds=source.silent_seconds(),
            rss_bytes=_rss_of_family(os.getpid()),
        )
        pipeline = self._pipeline
        return status if pipeline is None else pipeline.described(status, self.now())

    def _open(self) -> None:
        request = self.request
        target = self._target = find_target(request)
        # a playlist is fetched to tell
        self._is_file = not is_live(_input_url(request))
        if self._is_file and target.is_file:
            refuse_same_file(request.spec.input, request.spec.output)
        self._ingest.waits = self._is_file
        self._prepared = self._in_thread(lambda: prepare(request, target))

    def _make_source(self, read_seconds: float | None) -> ConnectedInput:
        """Make a source, on the thread of its reader."""
        if self.make_input is None:  # one for all connections: it remembers what worked
            self.make_input = source_maker(self.request, self.now, is_file=self._is_file)
        return self.make_input(read_seconds)

    def _in_thread(self, make: Callable[[], T]) -> Future[T]:
        """Make something that takes seconds, or minutes from the hub, on a daemon thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(make())
            except BaseException as error:  # raised again by the session, which ends with it
                future.set_exception(error)
            finally:
                self._changed()

        self._loaders.append(threading.Thread(target=run, name="upframe-load", daemon=True))
        self._loaders[-1].start()
        return future

    @property
    def _pipeline(self) -> LivePipeline | None:
        """The stages behind the input, once they run."""
        return _result_of(self._starting)

    def _start_pipeline(self) -> None:
        """Start the stages behind the input, once its form is known and the weights are loaded."""
        form, filters, target = self._ingest.first, _result_of(self._prepared), self._target
        if form is None or filters is None or target is None or self._starting is not None:
            return
        context = SessionContext(self.now, self.speed, self._changed)

        def start() -> LivePipeline:
            pipeline = LivePipeline(self.request, target, filters, form, self._ingest, context)
            pipeline.start()
            return pipeline

        self._starting = self._in_thread(start)

    def _sleep(self, seconds: float) -> None:
        """Wait for a change, and take all that have come."""
        try:
            self._wake.get(timeout=seconds / self.speed)
            while True:
                self._wake.get_nowait()
        except Empty:
            pass

    def _changed(self) -> None:
        self._wake.put(None)

    def _check_input(self) -> None:
        over = self._input.over
        if over is None:
            self._start_pipeline()
        elif self._is_last(over):
            if self._ingest.first is None:
                missing = over.reason in ("not-found", "unauthorised", "untrusted")
                raise (SourceMissing if missing else UnsupportedMedia)(str(over)) from over
            self._ended_by = self._ended_by or f"the input is over: {over}"

    def _is_last(self, over: InputLost) -> bool:
        """Return whether another connection is useless, or not wanted."""
        if self._is_file:
            return True
        if self._ingest.first is None:
            return self.request.give_up and over.reason in _HOPELESS
        return self.request.spec.on_loss == "stop"

    def _check_output(self) -> None:
        for future in (self._prepared, self._starting):
            if future is not None and future.done():
                future.result()
        if (pipeline := self._pipeline) is None:
            return
        if pipeline.output.complete.is_set():
            self._ended_by = self._ended_by or "its duration has passed"
        if pipeline.failure is not None:
            raise pipeline.failure

    def _report_status(self) -> None:
        """Report a status that has news, or every second."""
        now, status, before = self.now(), self.status(), self._reported
        if before is None or before.state != status.state:
            self._since = _now_utc()
            status = replace(status, since=self._since)
        elif now - self._reported_at < STATUS_SECONDS and before.news == status.news:
            return
        if status.warning and not self._has_warned:
            self._has_warned = True
            log.warning("%s", status.warning)
        if self.still_seconds is not None and self._ended_by is None:
            # not what passed: the process may have been stopped
            self._watched_seconds += min(now - self._reported_at, 2 * STATUS_SECONDS)
            seconds = self._detector.seconds(status, self._watched_seconds)
            if seconds >= self.still_seconds * (1 if self._detector.began else 10):
                self._hung = (
                    f"no new picture has gone out for {seconds:.0f} s, though frames came in"
                )
                self._ended_by = self._hung
        self._reported, self._reported_at = status, now
        if self.on_status is not None:
            self.on_status(status)

    @property
    def _drain_seconds(self) -> float:
        """For a thread to pass on what it has; one that hangs never will."""
        return 0.0 if self._hung else _DRAIN_SECONDS

    def _complete(self) -> LiveReport:
        """Write everything that has come, complete the output, and report."""
        self._ingest.close()
        self._input.stop()
        if self._starting is not None:
            self._loaders[-1].join()
        if (pipeline := self._pipeline) is not None:
            self._finish(pipeline)
        self._report_status()
        if self._hung:
            raise Hung(self._hung)
        if pipeline is not None:
            level = pipeline.governor.level.name
            if text := shortfall(pipeline.as_asked, level, "of the whole run"):
                log.warning("%s", text)
        report = self._report()
        if self._stopped_by is not None and not report.written:
            raise Stopped(self._stopped_by)
        return report

    def _finish(self, pipeline: LivePipeline) -> None:
        assert self._target is not None
        self._is_completing = True
        for stage in (pipeline.compute_stage, pipeline.output):
            stage.end()
            ends = time.monotonic() + self._drain_seconds
            while not stage.join(STATUS_SECONDS) and time.monotonic() < ends:
                self._report_status()
        self._check_output()
        seconds = _FINISH_FILE_SECONDS if self._target.is_file else _FINISH_URL_SECONDS
        pipeline.publisher.finish(seconds, self._report_status)
        self._is_completing = False

    def _report(self) -> LiveReport:
        status, pipeline, runtime = self.status(), self._pipeline, self.request.runtime
        built = () if pipeline is None else pipeline.compute.filters
        history = () if pipeline is None else pipeline.governor.history
        state = status.output_state
        return LiveReport(
            schema="upframe.live-report/1",
            version=version("upframe"),
            name=status.name,
            input=status.input,
            output=status.output,
            ended_by=self._ended_by or "",
            seconds=0.0 if pipeline is None else round(pipeline.output.seconds(), 3),
            counts=status.counts,
            reconnects={str(reason): count for reason, count in status.reconnects.items()},
            connections=state.connections,
            written=state.written,
            dropped=state.dropped,
            delay_seconds={} if pipeline is None else pipeline.delays.overall(),
            levels=[(round(one.at - self._began, 3), one.name, one.reason) for one in history],
            files=[redacted(name) for name in state.files],
            device=device_name(runtime.device),
            precision=str(runtime.precision).removeprefix("torch."),
            weights=weights_of(built),
            warnings=list(dict.fromkeys(redacted(text) for text in self._warned.messages)),
        )

    def _drop(self) -> None:
        """Leave nothing running, however the session ended."""
        self._ingest.close()
        self._input.stop()
        for loader, seconds in zip(self._loaders, (_PREPARED_SECONDS, None), strict=False):
            loader.join(seconds)
        if (pipeline := self._pipeline) is not None:
            pipeline.kill()
            pipeline.compute_stage.join(self._drain_seconds)
            pipeline.output.join(self._drain_seconds)


def _result_of(future: Future[T] | None) -> T | None:
    """Return what was made; None while it is being made, or if that failed."""
    if future is None or not future.done() or future.exception() is not None:
        return None
    return future.result()
