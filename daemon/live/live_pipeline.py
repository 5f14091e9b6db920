"""The parts of a session behind its input, made for what the first connection is like.

Size, pixel format and rate of the output are decided here, once; whatever the input becomes later
is fitted to it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Generic, TypeVar

from ...filters.chain import BuiltFilter, build_filters
from ...filters.frame import StreamInfo
from ...io.live.clock import LiveClock
from ...io.live.live_encoder import LiveEncoder, check_encoder, live_pix_fmt
from ...io.live.slate import slate
from ...io.live.target import LiveTarget
from ...io.live.values import Encoded, LiveForm, OutputState
from ..queues import DropOldestQueue
from ..specification import StreamSpec
from .compute_stage import ComputeStage, LiveCompute, QueuedFrame
from .governor import Governor
from .input import FrameIngest, IngestOutlet
from .levels import parse_levels
from .output import DelayStatistics, OutputStage, OutputTiming, PendingFrames
from .publisher import Publisher
from .request import LiveRequest

if TYPE_CHECKING:
    from av.stream import Stream

log = logging.getLogger("upframe.live")


# What can be known before the first connection: whether weights and an encoder are to be had.

Prepared = tuple[BuiltFilter, ...]
"""The filters, with their weights loaded."""


def prepare(request: LiveRequest, target: LiveTarget) -> Prepared:
    """Check the encoder, and load the weights, which takes seconds, or minutes from the hub.

    So what is wrong with either is said at the start, and not once a camera has answered; and the
    output begins the sooner.

    Raises:
        SinkRefused: if no encoder can make the output.
        FilterError: if weights cannot be had, or are none of the filter.
    """
    check_encoder(request.spec.encoder, target.format)
    return build_filters(request.spec.filters, request.runtime)


_WARM_UP_SECONDS = 5.0
"""After which no further level is measured."""
_WAITING_SHARE = 0.4
"""Of the latency budget, that a frame may wait for work while a newer one waits too."""
_PATIENCE_SECONDS = 0.5
_PATIENCE_SHARE = 0.25
"""Of the latency budget: the least of the two is how late a frame may be."""
_PATIENCE_INTERVALS = 2.5
"""But at least as many intervals: the last frame waits for the next one to be interpolated."""
_HOLD_SHARE = 0.6
_HOLD_INTERVALS = 2.2
"""After so much silence, of the patience or in intervals, the held frame goes out by itself."""
_DEADLINE_SHARE = 0.9
_CONNECT_SECONDS = 5.0
_SLATE_SECONDS = 1.0
_SLATE_INTERVALS = 8
"""After the last frame: the later of the two, as a slow stream is not gone between two frames."""
_MAX_WAITING_BYTES = 256 << 20
_MAX_WAITING_FRAMES = 240


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What the parts need of the session."""

    now: Callable[[], float]
    speed: float
    changed: Callable[[], None]


@dataclass(frozen=True, slots=True)
class LivePipeline:
    """The parts, which run."""

    clock: LiveClock
    queue: DropOldestQueue[QueuedFrame]
    compute: LiveCompute
    governor: Governor
    computing: ComputeStage
    encoder: LiveEncoder
    publisher: Publisher
    outgoing: OutputStage
    delays: DelayStatistics
    expected: PendingFrames
    sound: Stream | None
    """What its packets are like; None: the output has none."""


def pace_of(options: StreamSpec, rate: Fraction) -> OutputTiming:
    """Decide when the output goes on without the input, whose frames come at a nominal rate."""
    latency = options.latency_seconds
    interval = float(1 / rate)
    deadline = _DEADLINE_SHARE * latency
    patience = max(
        min(_PATIENCE_SECONDS, _PATIENCE_SHARE * latency), _PATIENCE_INTERVALS * interval
    )
    freezes = options.on_loss == "freeze"
    return OutputTiming(
        patience_seconds=min(deadline, patience),
        drop_seconds=max(latency, patience),
        slate_seconds=None if freezes else max(_SLATE_SECONDS, _SLATE_INTERVALS * interval),
    )


def start_pipeline(
    request: LiveRequest,
    target: LiveTarget,
    prepared: Prepared,
    form: LiveForm,
    intake: FrameIngest,
    around: SessionContext,
) -> LivePipeline:
    """Make all parts, start them, and let the frames in.

    Raises:
        FilterError: if the pictures are too large, or nothing that can be computed with.
        SinkRefused: if no encoder can make the output.
    """
    builder = _Builder(request, target, prepared, form, intake, around)
    works = builder.build()
    works.publisher.start()
    if intake.waits:  # a file need not begin before somebody takes it
        builder.connected.wait(_CONNECT_SECONDS)
    works.outgoing.start()
    works.computing.start()
    sound = None if works.sound is None else works.outgoing.put_sound
    intake.open(IngestOutlet(works.clock, works.queue, works.expected.add, sound))
    return works


class _Builder:
    """Makes one part after the other; each needs those before it."""

    def __init__(
        self,
        request: LiveRequest,
        target: LiveTarget,
        prepared: Prepared,
        form: LiveForm,
        intake: FrameIngest,
        around: SessionContext,
    ) -> None:
        if form.info.rate is None:
            raise ValueError("a live input has a nominal rate, got None")
        self._request = request
        self._options = request.spec
        self._target = target
        self._prepared = prepared
        self._form = form
        self._rate = form.info.rate
        self._intake = intake
        self._around = around
        self._levels = parse_levels(request.spec.levels, request.spec.filters)
        self.connected = threading.Event()
        """Whether the output was connected once."""
        self._delays = DelayStatistics()
        self._expected = PendingFrames(_DEADLINE_SHARE * request.spec.latency_seconds)

    def build(self) -> LivePipeline:
        """Make them all."""
        clock = LiveClock(self._rate * 2 ** self._levels[0].exp)
        model = replace(self._form.info, time_base=clock.time_base, average_rate=self._rate)
        compute = self._compute(model)
        governor = self._governor(compute)
        sound = self._sound()
        encoder = LiveEncoder(
            compute.info, self._request.spec.encoder, sound=sound, format=self._target.format
        )
        publisher = self._publisher(encoder)
        queue = self._queue(model)
        outgoing = self._outgoing(encoder, publisher, clock, compute.info)
        computing = self._computing(compute, governor, queue, model, outgoing)
        outgoing.in_flight = lambda: self._intake.placed_pts > computing.handled_pts
        return LivePipeline(
            clock, queue, compute, governor, computing, encoder, publisher, outgoing,
            self._delays, self._expected, sound,
        )  # fmt: skip

    def _compute(self, model: StreamInfo) -> LiveCompute:
        request = self._request
        return LiveCompute(
            model,
            request.spec.filters,
            request.runtime,
            levels=self._levels,
            pix_fmt=live_pix_fmt(self._form.info, request.spec.encoder, self._target.format),
            build=lambda _options, _runtime: self._prepared,
            now=self._around.now,
        )

    def _governor(self, compute: LiveCompute) -> Governor:
        """Measure each level, and begin at the one that the machine can keep up."""
        governor = Governor(self._levels, latency_seconds=self._options.latency_seconds)
        around = self._around
        costs = compute.warm_up(most_seconds=_WARM_UP_SECONDS * around.speed, now=around.now)
        interval = float(1 / self._rate)
        level = governor.expect(costs, now=self._around.now(), interval_seconds=interval)
        compute.switch(level.name)  # nothing is held yet
        log.info("level %s to begin with", level.name)
        return governor

    def _sound(self) -> Stream | None:
        kept = self._intake.sound_template
        if kept is None:
            return None
        refusal = kept.refusal(self._target.format)
        if refusal is None:
            return kept.stream
        log.warning("the sound is left out: %s", refusal)
        return None

    def _publisher(self, encoder: LiveEncoder) -> Publisher:
        def changed(state: OutputState) -> None:
            if state.connected:
                self.connected.set()
            self._around.changed()

        def written(packet: Encoded, at: float) -> None:
            if packet.kind == "video":
                self._delays.written(packet.pts, at)

        return Publisher(
            self._target,
            encoder.primer,
            now=self._around.now,
            on_change=changed,
            on_written=written,
        )

    def _queue(self, model: StreamInfo) -> DropOldestQueue[QueuedFrame]:
        """Hold what may wait, and not more than a bounded memory."""
        seconds = _WAITING_SHARE * self._options.latency_seconds
        frames = math.ceil(seconds * self._rate) + 1
        bytes_each = 3 * model.width * model.height * (1 if model.bit_depth == 8 else 2)
        most = min(_MAX_WAITING_FRAMES, _MAX_WAITING_BYTES // bytes_each)
        return DropOldestQueue(max(2, min(frames, most)), seconds, self._around.now)

    def _outgoing(
        self, encoder: LiveEncoder, publisher: Publisher, clock: LiveClock, info: StreamInfo
    ) -> OutputStage:
        assert info.rate is not None
        duration = self._request.duration_seconds
        return OutputStage(
            encoder,
            publisher,
            clock,
            self._delays,
            self._expected,
            pace_of(self._options, self._rate),
            rate=info.rate,
            slate=slate(info, self._request.spec.name),
            num_slots=None if duration is None else max(1, round(duration * info.rate)),
            pictures_per_frame=2 ** self._levels[0].exp,
            now=self._around.now,
            speed=self._around.speed,
            changed=self._around.changed,
        )

    def _computing(
        self,
        compute: LiveCompute,
        governor: Governor,
        queue: DropOldestQueue[QueuedFrame],
        model: StreamInfo,
        outgoing: OutputStage,
    ) -> ComputeStage:
        patience = pace_of(self._options, self._rate).patience_seconds
        hold = max(_HOLD_SHARE * patience, _HOLD_INTERVALS / float(self._rate))
        return ComputeStage(
            compute,
            governor,
            queue,
            model,
            give=outgoing.put,
            interval_seconds=self._intake.interval_seconds,
            hold_seconds=hold,
            deadline_seconds=_DEADLINE_SHARE * self._options.latency_seconds,
            now=self._around.now,
            speed=self._around.speed,
            changed=self._around.changed,
        )


# What takes its time, made on its own thread: weights take seconds, or minutes from the hub.

T = TypeVar("T")


class Loading(Generic[T]):
    """Makes something once; whoever asks sees whether it is there."""

    def __init__(self, make: Callable[[], T], changed: Callable[[], None]) -> None:
        """Begin.

        Args:
            make: makes it, on this thread.
            changed: called when that has ended.
        """
        self.made: T | None = None
        """What was made, once it is there."""
        self.failure: BaseException | None = None
        """Why there is nothing."""
        self._make = make
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="upframe-load", daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> None:
        """Wait until it has ended, for nothing can stop it; None: as long as it takes."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self.made = self._make()
        except BaseException as error:  # raised again by the session, which ends with it
            self.failure = error
        finally:
            self._changed()
