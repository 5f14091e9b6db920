"""Everything behind the input of a session, made for what the first connection is like.

Size, pixel format and rate of the output are decided here, once; whatever the input becomes later
is fitted to them.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ...filters.chain import BuiltFilter, build_filters
from ...filters.device import Runtime, resolve_device, resolve_precision
from ...filters.frame import StreamInfo
from ...filters.options import Policy
from ...io.live.clock import LiveClock
from ...io.live.live_encoder import LiveEncoder, check_encoder, live_pix_fmt
from ...io.live.slate import slate
from ...io.live.target import LiveTarget
from ...io.live.values import Encoded, LiveForm, OutputState
from ..queues import DropOldestQueue
from ..specification import StreamSpec
from .compute_stage import ComputeStage, LiveCompute, QueuedFrame, SessionContext
from .governor import Fulfilment, Governor, shortfall
from .input import FrameIngest, IngestOutlet
from .levels import parse_levels
from .output import DelayStatistics, OutputStage, OutputTiming, PendingFrames
from .publisher import Publisher
from .status import LiveStatus

if TYPE_CHECKING:
    from av.stream import Stream

log = logging.getLogger("upframe.live")


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """What a session runs."""

    spec: StreamSpec
    runtime: Runtime
    overwrite: bool = False
    numbered: bool = False
    """Whether a file gets a number where its name is taken, as a stream that restarts needs."""
    duration_seconds: float | None = None
    """Length of the output, after which the stream ends well; None: until it is stopped."""
    give_up: bool = False
    """Whether a first connection that cannot work (not found, unauthorised, no video) ends it."""


def request_of(spec: StreamSpec, weights: Policy) -> LiveRequest:
    """Make the request of a configured stream; raise DeviceUnavailable without its device."""
    device = resolve_device(spec.device)
    precision = resolve_precision(spec.precision, device)
    return LiveRequest(spec, Runtime(device, precision, weights), numbered=True)


def prepare(request: LiveRequest, target: LiveTarget) -> tuple[BuiltFilter, ...]:
    """Check the encoder and load the weights, which takes seconds, or minutes from the hub.

    Both are done before the first connection, so that an error is reported at once and the output
    begins sooner.

    Raises:
        SinkRefused: if no encoder can make the output.
        FilterError: if weights are not available, or not of the filter.
    """
    check_encoder(request.spec.encoder, target.format)
    return build_filters(request.spec.filters, request.runtime)


def description_of(info: StreamInfo, codec: str, sound: object) -> dict[str, Any]:
    """Describe one side of a stream, as a status shows it."""
    return {
        "width": info.width, "height": info.height, "rate": str(info.rate), "codec": codec,
        "pix_fmt": info.pix_fmt, "sound": sound,
    }  # fmt: skip


_WARM_UP_SECONDS = 5.0
"""After which no further level is measured."""
_WAITING_SHARE = 0.4
"""Of the latency budget, that a frame may wait for work while a newer one waits too."""
_PATIENCE_SECONDS = 0.5
_PATIENCE_SHARE = 0.25
"""Of the latency budget: the lesser of the two is how late a frame may be."""
_PATIENCE_INTERVALS = 2.5
"""But at least as many intervals: the last frame waits for the next one to be interpolated."""
_HOLD_SHARE = 0.6
_HOLD_INTERVALS = 2.2
"""Silence, of the patience or in intervals, after which the held frame goes out by itself."""
_DEADLINE_SHARE = 0.9
_CONNECT_SECONDS = 5.0
_SLATE_SECONDS = 1.0
_SLATE_INTERVALS = 8
"""After the last frame: the later of the two, since a slow stream has long intervals."""
_MAX_WAITING_BYTES = 256 << 20
_MAX_WAITING_FRAMES = 240

_FRAME_COUNTS = {
    "inserted": "frames_inserted", "upscaled": "frames_enlarged", "skipped": "frames_skipped",
}  # fmt: skip
"""Names of the filters' counters in a status."""


def timing_of(spec: StreamSpec, rate: Fraction) -> OutputTiming:
    """Decide when the output goes on without an input of some nominal rate."""
    latency = spec.latency_seconds
    interval = float(1 / rate)
    deadline = _DEADLINE_SHARE * latency
    usual = min(_PATIENCE_SECONDS, _PATIENCE_SHARE * latency)
    patience = max(usual, _PATIENCE_INTERVALS * interval)
    freezes = spec.on_loss == "freeze"
    return OutputTiming(
        patience_seconds=min(deadline, patience),
        drop_seconds=max(latency, patience),
        slate_seconds=None if freezes else max(_SLATE_SECONDS, _SLATE_INTERVALS * interval),
    )


@dataclass(eq=False)
class LivePipeline:
    """The compute stage, the output stage and the publisher.

    Raises:
        FilterError: if the pictures are too large, or of a format that cannot be computed with.
        SinkRefused: if no encoder can make the output.
    """

    request: LiveRequest
    target: LiveTarget
    """Where the output goes."""
    filters: tuple[BuiltFilter, ...]
    """With their weights loaded."""
    form: LiveForm
    """What the first connection is like."""
    ingest: FrameIngest
    """Passes the frames in."""
    context: SessionContext

    def __post_init__(self) -> None:
        form, target, context = self.form, self.target, self.context
        if form.info.rate is None:
            raise ValueError("a live input has a nominal rate, got None")
        self._spec = spec = self.request.spec
        self._rate = form.info.rate
        self._levels = parse_levels(spec.levels, spec.filters)
        self._connected = threading.Event()
        self.as_asked: float | None = None
        """Share of all frames that are what was asked for, at the latest status."""
        self._clock = LiveClock(self._rate * 2 ** self._levels[0].exp)
        model = replace(form.info, time_base=self._clock.time_base, average_rate=self._rate)
        self.delays = DelayStatistics()
        self._pending = PendingFrames(_DEADLINE_SHARE * spec.latency_seconds)
        self.compute = LiveCompute(
            model,
            spec.filters,
            self.request.runtime,
            levels=self._levels,
            pix_fmt=live_pix_fmt(form.info, spec.encoder, target.format),
            build=lambda _options, _runtime: self.filters,
            now=context.now,
        )
        self.governor = self._governor()
        self._fulfilment = Fulfilment()
        self._sound = self._sound_template()
        self._encoder = LiveEncoder(
            self.compute.info, spec.encoder, sound=self._sound, format=target.format
        )
        self.publisher = Publisher(
            target,
            self._encoder.primer,
            now=context.now,
            on_change=self._publisher_changed,
            on_written=self._written,
        )
        self._queue = self._bounded_queue(model)
        self._timing = timing_of(spec, self._rate)
        self.output = self._output_stage()
        self.compute_stage = self._compute_stage(model)
        self.output.in_flight = lambda: self.ingest.placed_pts > self.compute_stage.handled_pts

    def start(self) -> None:
        """Start the threads, and let the frames in; a file waits until the output is connected."""
        self.publisher.start()
        if self.ingest.waits:
            self._connected.wait(_CONNECT_SECONDS)
        self.output.start()
        self.compute_stage.start()
        sound = None if self._sound is None else self.output.put_sound
        self.ingest.open(IngestOutlet(self._clock, self._queue, self._pending.add, sound))

    @property
    def failure(self) -> BaseException | None:
        """Why a thread ended by itself."""
        return self.compute_stage.failure or self.output.failure or self.publisher.failure

    def kill(self) -> None:
        """End all stages at once; the output stays as it is."""
        self.output.cancel()
        self.compute_stage.end()
        self.publisher.kill()

    def described(self, status: LiveStatus, now: float) -> LiveStatus:
        """Add to a status of the input what the stages have done."""
        queued = self._queue.counts
        counts = Counter(status.counts)
        for name, count in self.compute_stage.counts().items():
            counts[_FRAME_COUNTS.get(name, name)] += count
        counts.update(self.output.counts())
        counts["frames_dropped"] += queued["full"] + queued["old"]
        counts["level_changes"] += self.governor.changes
        for kind, count in self._clock.counts.items():
            counts[f"discontinuities_{kind}"] += count
        as_asked = counts["frames_as_asked"]
        less = sum(counts[f"frames_{kind}"] for kind in ("reduced", "dropped", "skipped"))
        self.as_asked = as_asked / (as_asked + less) if as_asked + less else None
        share = self._fulfilment.share(now, as_asked, as_asked + less)
        level = self.governor.level.name
        output = description_of(self.compute.info, self._encoder.codec, self._sound is not None)
        return replace(
            status,
            level=level,
            as_asked=None if share is None else round(share, 3),
            warning=shortfall(share, level, "of the last minute"),
            output={**status.output, **output},
            output_state=self.publisher.state,
            showing=self.output.showing,
            counts=dict(counts),
            delay_seconds=self.delays.recent(now),
            waiting_frames=len(self._queue),
        )

    def _publisher_changed(self, state: OutputState) -> None:
        if state.connected:
            self._connected.set()
        self.context.changed()

    def _written(self, packet: Encoded, at: float) -> None:
        if packet.kind == "video":
            self.delays.written(packet.pts, at)

    def _governor(self) -> Governor:
        """Measure each level, and begin at the one that the machine can keep up."""
        governor = Governor(self._levels, latency_seconds=self._spec.latency_seconds)
        now, speed = self.context.now, self.context.speed
        costs = self.compute.warm_up(most_seconds=_WARM_UP_SECONDS * speed)
        level = governor.expect(costs, now=now(), interval_seconds=float(1 / self._rate))
        self.compute.switch(level.name)  # nothing is held yet
        log.info("level %s to begin with", level.name)
        return governor

    def _sound_template(self) -> Stream | None:
        template = self.ingest.sound_template
        if template is None:
            return None
        refusal = template.refusal(self.target.format)
        if refusal is None:
            return template.stream
        log.warning("the sound is left out: %s", refusal)
        return None

    def _bounded_queue(self, model: StreamInfo) -> DropOldestQueue[QueuedFrame]:
        """Make the queue for the frames that may wait, in a bounded memory."""
        seconds = _WAITING_SHARE * self._spec.latency_seconds
        frames = math.ceil(seconds * self._rate) + 1
        bytes_each = 3 * model.width * model.height * (1 if model.bit_depth == 8 else 2)
        most = min(_MAX_WAITING_FRAMES, _MAX_WAITING_BYTES // bytes_each)
        return DropOldestQueue(max(2, min(frames, most)), seconds, self.context.now)

    def _output_stage(self) -> OutputStage:
        info, seconds = self.compute.info, self.request.duration_seconds
        assert info.rate is not None
        num_slots = None if seconds is None else max(1, round(seconds * info.rate))
        return OutputStage(
            encoder=self._encoder,
            publisher=self.publisher,
            clock=self._clock,
            delays=self.delays,
            pending=self._pending,
            timing=self._timing,
            rate=info.rate,
            slate=slate(info, self._spec.name),
            num_slots=num_slots,
            pictures_per_frame=2 ** self._levels[0].exp,
            context=self.context,
        )

    def _compute_stage(self, model: StreamInfo) -> ComputeStage:
        patience = self._timing.patience_seconds
        return ComputeStage(
            compute=self.compute,
            governor=self.governor,
            queue=self._queue,
            model=model,
            give=self.output.put,
            interval_seconds=lambda: self.ingest.interval_seconds,
            hold_seconds=max(_HOLD_SHARE * patience, _HOLD_INTERVALS / float(self._rate)),
            deadline_seconds=_DEADLINE_SHARE * self._spec.latency_seconds,
            context=self.context,
        )
