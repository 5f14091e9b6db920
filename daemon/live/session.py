"""One live stream in one process, from its first connection to its end, over months if need be.

The session's own thread, which called `run`, looks after all others: the input's reader, the
compute and output threads, and the publisher with its child process. It is the only one that
decides; the others only do their part and say when something has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import NoReturn

from ...io.errors import InputLost, SourceMissing, UnsupportedMedia
from ...io.files import refuse_same_file
from ...io.live.address import (
    AddressMemory,
    LiveAddress,
    find_address,
    is_live,
    read_credentials,
    with_credentials,
)
from ...io.live.live_input import LiveInput, PacedFile
from ...io.live.target import LiveTarget, find_live_target
from ..convert.report import WarningLog, kept_warnings
from ..errors import Stopped
from .input import CONNECT_SECONDS, FrameIngest, InputSupervisor, LiveSource, MakeSource
from .live_pipeline import LivePipeline, Loading, SessionContext, prepare, start_pipeline
from .report import LiveReport, now_utc, report_of, status_of_parts
from .request import LiveRequest
from .status import LiveStatus

# The output's parts in the making: at the start what needs no input, the rest once it is known.

_PREPARED_SECONDS = 5.0
"""For weights from the disk, at the end; a fetch from the hub is left behind."""


class Making:
    """Makes the parts of one session; both steps take their time, each on a thread of its own."""

    def __init__(
        self, request: LiveRequest, target: LiveTarget, intake: FrameIngest, around: SessionContext
    ) -> None:
        """Begin with what needs no input."""
        self._request, self._target = request, target
        self._intake, self._around = intake, around
        self._prepared = Loading(lambda: prepare(request, target), around.changed)
        self._loading: Loading[LivePipeline] | None = None

    @property
    def works(self) -> LivePipeline | None:
        """The parts, once they run."""
        return None if self._loading is None else self._loading.made

    def failures(self) -> Iterator[BaseException]:
        """Tell why there is nothing."""
        for loading in (self._prepared, self._loading):
            if loading is not None and loading.failure is not None:
                yield loading.failure

    def go_on(self) -> None:
        """Have the rest made, once it is known for what, and with what."""
        first, prepared = self._intake.first, self._prepared.made
        if first is None or prepared is None or self._loading is not None:
            return
        request, target, intake, around = self._request, self._target, self._intake, self._around
        self._loading = Loading(
            lambda: start_pipeline(request, target, prepared, first, intake, around), around.changed
        )

    def join(self) -> None:
        """Wait for the parts, if they are being made."""
        if self._loading is not None:
            self._loading.join()

    def drop(self) -> None:
        """Leave nothing behind that can be waited for."""
        self._prepared.join(_PREPARED_SECONDS)
        self.join()


# The two ends of a live stream: what a request's addresses mean.


def is_file_input(request: LiveRequest) -> bool:
    """Return whether the input is a file, which has an end and can wait; fetches a playlist."""
    return not is_live(_input_url(request))


def _input_url(request: LiveRequest) -> str:
    """Return the input's URL with its credentials; a path as it is."""
    spec = request.spec
    if spec.credentials_file is None or "://" not in spec.input:
        return spec.input
    return with_credentials(spec.input, read_credentials(spec.credentials_file))


def source_maker(request: LiveRequest, now: Callable[[], float], *, is_file: bool) -> MakeSource:
    """Say how each connection of the input is made."""
    remembered = AddressMemory()

    def make_file(_: float | None) -> LiveSource:
        return PacedFile(_input_url(request), now=now, sound=request.spec.sound)

    def address_of(read_seconds: float | None) -> LiveAddress:
        """Find the address anew: a file of credentials may have changed."""
        return find_address(
            request.spec.input,
            transport=request.spec.rtsp_transport,
            credentials_file=request.spec.credentials_file,
            connect_seconds=CONNECT_SECONDS,
            read_seconds=read_seconds,
            remembered=remembered,
        )

    def make_live(read_seconds: float | None) -> LiveSource:
        address = address_of(None)
        if read_seconds is not None and read_seconds > address.read_seconds:
            address = address_of(read_seconds)
        return LiveInput(address, now=now, sound=request.spec.sound)

    return make_file if is_file else make_live


def find_target(request: LiveRequest) -> LiveTarget:
    """Make out where the output shall go.

    Raises:
        SinkRefused: if it cannot be written, as far as that shows without connecting.
        SourceMissing: if its credentials cannot be read.
    """
    target = find_live_target(
        request.spec.output,
        format=request.spec.container,
        segment_seconds=request.spec.segment_seconds,
        overwrite=request.overwrite,
        numbered=request.numbered,
    )
    if request.spec.output_credentials_file is None:
        return target
    credentials = read_credentials(request.spec.output_credentials_file)
    return replace(target, url=with_credentials(target.url, credentials))


STATUS_SECONDS = 1.0
"""A status is told at least as often."""
_DRAIN_SECONDS = 30.0
"""For each thread to give what it has, at the end."""
_FINISH_URL_SECONDS = 10.0
_FINISH_FILE_SECONDS = 900.0
"""Checking a recording of days reads all of it."""
_LOOK_SECONDS = 0.25
_COMPLETING = "the output is being completed"
_HOPELESS = ("not-found", "unauthorised", "untrusted", "unsupported")
"""Reasons for which a first connection may end it all."""


def _ignore(_: LiveStatus) -> None:
    pass


class LiveSession:
    """Runs one live stream: `run` in one thread, everything else from any."""

    def __init__(
        self,
        request: LiveRequest,
        *,
        now: Callable[[], float] = time.monotonic,
        speed: float = 1.0,
        on_status: Callable[[LiveStatus], None] = _ignore,
        make_input: MakeSource | None = None,
    ) -> None:
        """Take what to do; nothing is opened yet.

        Args:
            request: what to read, what to do with it, where to.
            now: monotonic seconds, perhaps of a faster clock.
            speed: how many of them pass in a second.
            on_status: told by the thread of `run`, on each change and every second.
            make_input: makes the source of each connection, for reads of so many seconds at most;
                None: by the request's address.
        """
        self._request = request
        self._now = now
        self._speed = speed
        self._on_status = on_status
        self._make_input = make_input
        self._wake: SimpleQueue[None] = SimpleQueue()  # its put may come from a signal handler
        self._intake = FrameIngest(wants_sound=request.spec.sound, now=now, changed=self._changed)
        self._incoming = InputSupervisor(
            self._make,
            self._intake,
            now=now,
            changed=self._changed,
            stall_seconds=request.spec.stall_seconds,
            is_last=self._is_last,
        )
        self._is_file = False
        self._target: LiveTarget | None = None
        self._making: Making | None = None
        self._is_completing = False
        self._warned = WarningLog()
        self._ended_by: str | None = None
        self._stopped_by: int | None = None
        self._began = now()
        self._since = now_utc()
        self._told: LiveStatus | None = None
        self._told_at = -1e9

    def run(self) -> LiveReport:
        """Run until told to stop, or to the end of the output's duration.

        Raises:
            MediaError: if the output cannot be written, or the input can never be read.
            FilterError: if weights or the device are not to be had, or memory is too small.
            UsageError: for a level that there is not.
            Stopped: if a signal came before anything could be written.
        """
        with kept_warnings() as self._warned:
            try:
                self._began = self._now()
                self._find_ends()
                while self._ended_by is None:
                    self._turn()
                return self._complete()
            finally:
                self._drop()

    def stop(self, number: int | None = None) -> None:
        """Ask the stream to end well; also from a signal handler.

        Args:
            number: of the signal that asks; None: nobody needs to know.
        """
        if self._ended_by is None:
            self._stopped_by = number
            self._ended_by = "stopped" if number is None else f"stopped by signal {number}"
        self._wake.put(None)

    def kill(self) -> None:
        """End the output at once, as it is; `run` ends soon after."""
        self.stop()
        self._kill_works()

    def status(self) -> LiveStatus:
        """Tell where the stream stands."""
        parts = (self._request, self._incoming, self._intake, self._works)
        status = status_of_parts(*parts, since=self._since, now=self._now())
        return replace(status, message=_COMPLETING) if self._is_completing else status

    def _find_ends(self) -> None:
        request = self._request
        self._target = find_target(request)
        self._is_file = is_file_input(request)
        if self._is_file and self._target.is_file:
            refuse_same_file(request.spec.input, request.spec.output)
        self._intake.waits = self._is_file
        around = SessionContext(self._now, self._speed, self._changed)
        self._making = Making(request, self._target, self._intake, around)

    def _make(self, read_seconds: float | None) -> LiveSource:
        """Make a source, on the thread of its reader."""
        make = self._make_input
        if make is None:
            make = source_maker(self._request, self._now, is_file=self._is_file)
        return make(read_seconds)

    def _turn(self) -> None:
        wait = self._incoming.tick()
        self._judge_input()
        self._judge_output()
        self._tell()
        self._sleep(min(wait, _LOOK_SECONDS))

    def _sleep(self, seconds: float) -> None:
        """Wait for a change, and take all that have come."""
        try:
            self._wake.get(timeout=seconds / self._speed)
            while True:
                self._wake.get_nowait()
        except Empty:
            pass

    def _changed(self) -> None:
        self._wake.put(None)

    def _judge_input(self) -> None:
        over = self._incoming.over
        if over is None:
            if self._making is not None:
                self._making.go_on()
            return
        if self._is_last(over):
            if self._intake.first is None:
                _give_up(over)
            self._ended_by = self._ended_by or f"the input is over: {over}"

    def _is_last(self, over: InputLost) -> bool:
        """Tell whether there is no use in connecting again, or nobody wants it."""
        if self._is_file:
            return True
        if self._intake.first is None:
            return self._request.give_up and over.reason in _HOPELESS
        return self._request.spec.on_loss == "stop"

    @property
    def _works(self) -> LivePipeline | None:
        return None if self._making is None else self._making.works

    def _judge_output(self) -> None:
        works = self._works
        failures = [] if self._making is None else [*self._making.failures()]
        if works is not None:
            parts = (works.computing, works.outgoing, works.publisher)
            failures += [part.failure for part in parts if part.failure is not None]
            if works.outgoing.complete.is_set():
                self._ended_by = self._ended_by or "its duration has passed"
        for failure in failures:
            raise failure

    def _tell(self) -> None:
        """Tell a status that is news, or every second."""
        now = self._now()
        status = self.status()
        before = self._told
        if before is None or before.state != status.state:
            self._since = now_utc()
            status = self.status()
        elif now - self._told_at < STATUS_SECONDS and before.gist == status.gist:
            return
        self._told, self._told_at = status, now
        self._on_status(status)

    def _complete(self) -> LiveReport:
        """Give everything that has come to the output, complete it, and say what was done."""
        self._intake.close()
        self._incoming.stop()
        if self._making is not None:
            self._making.join()
        works = self._works
        if works is not None:
            self._finish(works)
        self._tell()
        report = report_of(
            self._request,
            self.status(),
            works,
            ended_by=self._ended_by or "",
            began=self._began,
            warnings=self._warned.messages,
        )
        if self._stopped_by is not None and not report.written:
            raise Stopped(self._stopped_by)
        return report

    def _finish(self, works: LivePipeline) -> None:
        assert self._target is not None
        self._is_completing = True
        works.computing.end()
        self._await(works.computing.join)
        works.outgoing.end()
        self._await(works.outgoing.join)
        self._judge_output()
        seconds = _FINISH_FILE_SECONDS if self._target.is_file else _FINISH_URL_SECONDS
        works.publisher.finish(seconds, self._tell)
        self._is_completing = False

    def _await(self, join: Callable[[float], bool]) -> None:
        """Wait for a thread to give what it has, and tell that we are there."""
        ends = time.monotonic() + _DRAIN_SECONDS
        while not join(STATUS_SECONDS) and time.monotonic() < ends:
            self._tell()

    def _drop(self) -> None:
        """Leave nothing running, however it ended; where it ended well, nothing is left to do."""
        self._intake.close()
        self._incoming.stop()
        if self._making is not None:
            self._making.drop()
        self._kill_works()
        if self._works is not None:
            self._works.computing.join(_DRAIN_SECONDS)
            self._works.outgoing.join(_DRAIN_SECONDS)

    def _kill_works(self) -> None:
        works = self._works
        if works is not None:
            works.outgoing.cancel()
            works.computing.end()
            works.publisher.kill()


def _give_up(over: InputLost) -> NoReturn:
    """Raise why there is nothing to read, and never was."""
    missing = over.reason in ("not-found", "unauthorised", "untrusted")
    raise (SourceMissing if missing else UnsupportedMedia)(str(over)) from over
